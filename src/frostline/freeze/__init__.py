"""Freeze strategies, a family a file: each says when the parameters of a stage learn, and how fast."""
