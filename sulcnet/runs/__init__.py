"""Put network, method, tuning and tasks together into one run."""
