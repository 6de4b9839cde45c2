"""Frostline: plan, run, prove and compare freeze strategies for transfer learning."""

__version__ = "0.1.0"
