"""Pre-training methods: what a network learns from images alone, one file per method."""
