"""The parameters as named groups that never change, and the learning rate over the steps of a run."""
