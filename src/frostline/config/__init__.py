"""From a command line to a checked config: every mistake at once, before torch is imported."""
