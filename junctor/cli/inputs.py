"""What a command is given to send: JSON from a flag, from a file, from standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from junctor.cli.failure import Failure

InputFile = Annotated[
    str, typer.Option("--input-file", help="JSON object to start from; - is stdin.", show_default=False)
]
InputData = Annotated[str, typer.Option("--input-data", help="The same, written here.", show_default=False)]


def read_input(file: str) -> str:
    """Return a file's text, standard input's for ``-``. Raises Failure."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def given_object(input_file: str, input_data: str) -> dict[str, Any]:
    """Return the JSON object of a file or of a flag, empty without either. Raises Failure."""
    if input_file and input_data:
        raise typer.BadParameter("give --input-file or --input-data, not both")
    if not input_file and not input_data:
        return {}
    try:
        found = json.loads(input_data or read_input(input_file))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        place = "--input-data" if input_data else "standard input" if input_file == "-" else input_file
        raise Failure(f"{place} holds no JSON object")
    return found
