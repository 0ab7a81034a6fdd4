"""``min_revision``: a call may demand that what was just written is already in force."""

from __future__ import annotations

import asyncio

from junctor.errors import FieldViolation, InvalidField, RevisionNotReached
from services.inference_router.catalog import STORES, CatalogKeeper

DEFAULT_WAIT = 10.0
"""Seconds to wait for a call without a timeout of its own."""


def parse(text: str) -> dict[str, int]:
    """Read ``store:revision[,store:revision]``. Raises InvalidField."""
    wanted: dict[str, int] = {}
    for part in text.split(","):
        store, colon, number = part.strip().partition(":")
        if store not in STORES or not colon or not number.isdecimal() or len(number) > 18:
            rule = f"must be written as store:revision, the store one of {', '.join(STORES)}"
            raise InvalidField.of(FieldViolation("min_revision", rule))
        wanted[store] = max(int(number), wanted.get(store, 0))
    return wanted


async def wait_for(keeper: CatalogKeeper, min_revision: str, timeout: float | None) -> dict[str, int]:  # noqa: ASYNC109
    """Return ``min_revision`` by store once the catalog has it. Raises RevisionNotReached after ``timeout`` s."""
    wanted = parse(min_revision)
    have = keeper.revisions()
    missing = {store: revision for store, revision in wanted.items() if have.get(store, 0) < revision}
    if not missing:
        return wanted
    try:
        async with asyncio.timeout(DEFAULT_WAIT if timeout is None else timeout):
            await asyncio.gather(*(keeper.reached(store, revision) for store, revision in missing.items()))
    except TimeoutError:
        raise RevisionNotReached(
            "The router has not reached min_revision in time.", retry_after=1.0, metadata={"have": str(have)}
        ) from None
    return wanted
