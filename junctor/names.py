"""The name rule of every resource, and the written form ``workspace/name``.

Source of the rule: the HTTP contract (2-63 characters, lowercase first letter, ``- @ . + _`` allowed,
no ``--``, no trailing ``-``). Junctor matches the full string, so a trailing newline does not pass.
"""

from __future__ import annotations

import re

NAME_PATTERN = re.compile(r"[a-z](?!.*--)[a-z0-9\-@.+_]{1,62}(?<!-)")

NAME_RULE = (
    "Name must start with a lowercase letter, be 2-63 characters, and contain only lowercase letters, "
    "digits, and hyphens (no consecutive hyphens, cannot end with a hyphen)."
)

ALL_WORKSPACES = "-"
"""Workspace in the path of a list that means "every workspace"."""


def is_name(text: str) -> bool:
    """Tell whether ``text`` is a valid resource name."""
    return NAME_PATTERN.fullmatch(text) is not None


def join(workspace: str, name: str) -> str:
    """Write a resource as ``workspace/name``."""
    return f"{workspace}/{name}"


def split(reference: str) -> tuple[str, str]:
    """Split ``workspace/name`` at its first slash; without a slash the workspace is empty."""
    workspace, slash, name = reference.partition("/")
    return (workspace, name) if slash else ("", reference)
