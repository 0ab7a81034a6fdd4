"""Plumbing of every service: no domain words but the workspace."""
