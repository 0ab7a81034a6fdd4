"""Requests made of our OpenAPI document, good and bad: no 5xx, and no answer that the document does not describe."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.security.attack import Target, target

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

EXAMPLES = 3
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def where(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    async with target(tmp_path_factory.mktemp("described")) as made:
        yield made


def _ask(operation: Any, url: str, mode: schemathesis.GenerationMode) -> list[str]:
    """Send requests for one operation; return what is wrong with the answers."""
    found: list[str] = []

    @SETTINGS
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: Any) -> None:
        answer = case.call(base_url=url, timeout=30)
        try:
            case.validate_response(answer, checks=CHECKS)
        except (AssertionError, BaseExceptionGroup) as failure:
            every = getattr(failure, "exceptions", [failure])
            found.extend(f"{operation.label} {mode.name}: {one!s}"[:1500] for one in every)

    with contextlib.suppress(Unsatisfiable):  # an operation without anything to get wrong
        asked()
    return found


def _drawable(node: Any) -> Any:
    """The document with shorter texts at most: no generator draws one of 64 KiB in a time that is worth it."""
    if isinstance(node, list):
        return [_drawable(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: min(value, 300) if key == "maxLength" and isinstance(value, int) else _drawable(value)
        for key, value in node.items()
    }


async def test_every_answer_is_as_the_document_says(where: Target) -> None:
    url = f"http://127.0.0.1:{where.http_port}"
    async with httpx.AsyncClient(trust_env=False) as http:
        document = (await http.get(f"{url}/openapi.json")).json()
    schema = schemathesis.openapi.from_dict(_drawable(document))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 30
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    found: list[str] = []
    for operation in operations:
        for mode in modes if operation.body or operation.query else modes[:1]:
            found += await asyncio.to_thread(_ask, operation, url, mode)
    assert not found, "\n\n".join(found)
    assert where.alive()
    assert "Traceback" not in where.process.stderr
