"""What a frozen prefix makes of each example, computed once and kept until the prefix thaws."""
