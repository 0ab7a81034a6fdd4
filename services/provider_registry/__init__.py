"""Where it is served: providers, their discovery and their secrets."""
