"""Calls functions of one client module for the tests, in the client's own environment: ``serve.py MODULE``.

One JSON object a line on stdin, ``{"call": name, "args": {…}}``; one a line on stdout, ``{"returned": value}`` or
``{"raised": {…}}``. Imports are paid for once. Knows nothing of junctor and imports nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until stdin ends. The client gets streams of its own, so that what it prints cannot disturb."""
    orders = os.fdopen(os.dup(0))
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    sys.path.insert(0, os.path.dirname(__file__))
    module = importlib.import_module(sys.argv[1])
    for line in orders:
        answers.write(json.dumps(_answer(module, json.loads(line))) + "\n")
        answers.flush()


def _answer(module: Any, order: dict[str, Any]) -> dict[str, Any]:
    try:
        value = getattr(module, order["call"])(**order["args"])
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        return {"returned": value}
    except Exception as error:  # noqa: BLE001 - what a client raises is the result
        return {"raised": raised(error)}


async def _awaited(value: Any) -> Any:
    return await value


def raised(error: BaseException) -> dict[str, Any]:
    """Describe an exception: names of its classes, and what clients read on it."""
    response = getattr(error, "response", None)
    facts = {name: getattr(error, name, None) for name in ("status_code", "code", "type", "body")}
    headers = dict(getattr(response, "headers", None) or {})
    classes = [kind.__name__ for kind in type(error).__mro__[:-1]]
    return {"classes": classes, "text": str(error)[:2000], "headers": headers, **_plain(facts)}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


if __name__ == "__main__":
    main()
