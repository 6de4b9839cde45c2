"""Heads of a study train together: one run takes the steps of others along, each on the batches that it would see."""
