"""From a prepared image to probabilities: windows, and the predictor."""
