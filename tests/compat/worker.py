"""The test's end of a client that runs in an environment of its own; ``clients/serve.py`` is the other end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compat.environments import HERE

CALL_SECONDS = 90.0
"""Bound of one call; only ends a client that hangs."""


@dataclass(frozen=True)
class Raised:
    """An exception that a client raised. ``classes``: its class and that one's bases, by name."""

    classes: Sequence[str]
    text: str
    headers: Mapping[str, str]
    status_code: int | None = None
    code: str | None = None
    type: str | None = None
    body: Any = None


class Worker:
    """A client process. Calls go one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def call(self, function: str, **args: Any) -> Any:
        """Return what the client's function returned; fail when it raised."""
        answer = await asyncio.to_thread(self._exchange, {"call": function, "args": args})
        assert "returned" in answer, answer["raised"]
        return answer["returned"]

    async def failing(self, function: str, **args: Any) -> Raised:
        """Return what the client's function raised; fail when it returned."""
        answer = await asyncio.to_thread(self._exchange, {"call": function, "args": args})
        assert "raised" in answer, f"did not raise: {answer['returned']}"
        return Raised(**answer["raised"])

    def _exchange(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        bound = threading.Timer(CALL_SECONDS, self._process.kill)
        bound.start()
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            bound.cancel()
            bound.join()
        assert line, f"the client ended during {order}"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def python_worker(python: Path, module: str, home: Path) -> Iterator[Worker]:
    """Run ``clients/<module>.py`` under that interpreter."""
    with _worker([str(python), "-u", str(HERE / "clients" / "serve.py"), module], home) as worker:
        yield worker


@contextmanager
def node_worker(packages: Path, script: str, home: Path) -> Iterator[Worker]:
    """Run ``clients/node/<script>``, copied to where Node finds its packages."""
    target = packages / script
    target.write_text((HERE / "clients" / "node" / script).read_text())
    with _worker(["node", str(target)], home) as worker:
        yield worker


@contextmanager
def _worker(command: Sequence[str], home: Path) -> Iterator[Worker]:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment(home), cwd=home
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the developer's own configuration reaches a client."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "200",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else litellm fetches a price list at import
    }
