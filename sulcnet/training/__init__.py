"""The loop, what it steps, and what it saves; it knows no method by name."""
