"""What can be served: model entities and virtual models."""
