"""The one way a command fails: a line for the user and exit code 1."""

from __future__ import annotations


class Failure(Exception):
    """The command could not do its work. The text is one line, printed after ``junctor:``."""
