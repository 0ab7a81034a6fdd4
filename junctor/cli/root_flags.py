"""Flags of ``junctor`` itself, written before the command: ``junctor -w lab models list``.

They count for every command below, unless the command is given its own; over variables and config file they win.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

from junctor.cli.options import Output

_KEYS = ("base_url", "workspace", "output")


@dataclass(frozen=True, slots=True)
class RootFlags:
    """What was given; empty: nothing."""

    base_url: str = ""
    workspace: str = ""
    output: Output | None = None


def of(context: typer.Context) -> RootFlags:
    """Return the flags before the command that ``context`` belongs to."""
    found = context.find_root().obj
    return found if isinstance(found, RootFlags) else RootFlags()


def settled(context: typer.Context, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's arguments, with the flags before it in place of what it was not given as a flag."""
    root = of(context)
    offers = {key: getattr(root, key) for key in _KEYS if key in arguments and not _given(context, key)}
    return {**arguments, **{key: value for key, value in offers.items() if value}}


def _given(context: typer.Context, key: str) -> bool:
    source = context.get_parameter_source(key)
    return source is not None and source.name == "COMMANDLINE"
