"""Penalties that hold a network near where it started, a file each."""
