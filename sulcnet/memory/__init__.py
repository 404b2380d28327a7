"""What a training step holds: traced on fake tensors, kept as rows, and asked for by the plan."""
