"""Fixtures that every test may use: a running junctor and a scripted provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.cluster import Cluster, running
from tests.upstream import ScriptedUpstream


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """A provider that does what the test tells it to."""
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """All services and the edge, on free ports, with nothing in them."""
    async with running(tmp_path) as running_cluster:
        yield running_cluster
