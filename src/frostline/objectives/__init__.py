"""What a network is trained for: loss and metrics of one kind of problem, a file each."""
