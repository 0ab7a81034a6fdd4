"""Fixtures of the tests about access."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.doors import Doors, doors


@pytest_asyncio.fixture(params=["direct", "grpc"])
async def guarded(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Doors]:
    """Everything in one process with auth on; edge and router meet directly, and over gRPC."""
    async with doors(tmp_path, hop=request.param) as opened:
        yield opened
