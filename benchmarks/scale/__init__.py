"""What several routers, workers and replicas give, and what the end of any one process costs."""
