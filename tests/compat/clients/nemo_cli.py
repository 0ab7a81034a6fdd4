"""The unmodified ``nemo`` command: each call is a process of its own, forked from one that has imported the CLI.

Importing it takes seconds; a test that runs the installed script itself shows that both are the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from typing import Any

from nemo_platform.cli.app import cli

_COMMON = (
    ("models", "list"),
    ("inference", "providers", "create"),
    ("inference", "gateway", "model", "post"),
    ("chat",),
)


def _load_commands() -> None:
    """Import what commands import lazily, once for all children."""
    for command in _COMMON:
        sys.argv = ["nemo", *command, "--help"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            cli()


_load_commands()


def run(argv: list[str], stdin: str | None = None, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run ``nemo argv`` and return its exit code and what it wrote."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
        given.write((stdin or "").encode())
        given.seek(0)
        child = os.fork()
        if child == 0:
            _become(argv, env or {}, (given.fileno(), out.fileno(), err.fileno()))
        _, status = os.waitpid(child, 0)
        return {"exit": os.waitstatus_to_exitcode(status), "out": _text(out), "err": _text(err)}


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode()


def _become(argv: list[str], env: dict[str, str], files: tuple[int, int, int]) -> None:
    code: Any = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        os.environ.update(env)
        sys.argv = ["nemo", *argv]
        cli()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - must not return into the parent's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
