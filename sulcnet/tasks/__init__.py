"""What a network is asked for: one file per task, which owns the question from dataset.json to the tables."""
