"""Runs the modules that touch transports on both loops: asyncio's and uvloop's differ there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

_BOTH = frozenset(("test_protocol.py", "test_http_sink.py"))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name in _BOTH:
        factories["uvloop"] = uvloop.new_event_loop
    return factories
