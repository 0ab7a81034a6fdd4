"""Where models are served: providers, their secrets, and what discovery finds out about them."""
