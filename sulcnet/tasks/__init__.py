"""What a network is asked for: head, target, loss and score, one file per task."""
