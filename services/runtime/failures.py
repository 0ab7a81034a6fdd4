"""Why a process cannot begin its work."""

from __future__ import annotations


class CannotStart(Exception):
    """Raised before anything is served; the text is one line for an operator: what, why, no secret."""
