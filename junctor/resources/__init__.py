"""The resources of a client: requests as values, and the twins that send them."""
