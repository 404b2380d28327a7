"""One run from its folder to its weights: preparing, pre-training, fine-tuning, and the demo of all of it."""
