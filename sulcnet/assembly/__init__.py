"""Network, method, tuning strategy and tasks put together into what the loop steps; and the weights it starts from."""
