"""Check a raw dataset and prepare its cases; no torch."""
