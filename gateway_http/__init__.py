"""The HTTP edge: OpenAI-compatible REST and server-sent events in front of the services."""
