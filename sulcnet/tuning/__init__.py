"""Tuning strategies: which parameters of a pre-trained network learn, one file per strategy."""
