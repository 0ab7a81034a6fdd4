"""The data plane: routes inference calls to providers."""
