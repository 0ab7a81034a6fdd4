"""Commands that are imported when they run."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand

from junctor.cli.failure import Failure

OWN_PACKAGES = ("junctor", "services", "gateway_http")


class LazyCommand(TyperCommand):
    """Stands in for a command until it is called: shows its help line, imports nothing."""

    def __init__(self, name: str, target: str, help_line: str) -> None:
        super().__init__(name, help=help_line, rich_markup_mode=None)
        self._target = target

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command and hand over to it."""
        command = typer.main.get_command(_as_typer(load(str(self.name), self._target), str(self.name)))
        return command.make_context(info_name, args, parent=parent, **extra)


def load(name: str, target: str) -> Any:
    """Import ``module:attribute``. Raises :class:`Failure` if a package that it needs is not installed."""
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in OWN_PACKAGES and error.name != missing:
            raise
        raise Failure(f"'{name}' needs the server packages: pip install 'junctor[server]'") from None


def _as_typer(loaded: Any, name: str) -> typer.Typer:
    if isinstance(loaded, typer.Typer):
        return loaded
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name)(loaded)
    return app
