"""Data modules: real examples in, exact splits out; a dataset a file."""
