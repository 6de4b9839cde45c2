"""Networks as recipes, one source a file, and their stages in forward order."""
