"""The demo provider: a real OpenAI-compatible server, so that ``junctor up`` works without any key."""
