"""The gRPC service ``Quota``: checks wishes, has the store decide."""

from __future__ import annotations

from typing import Any

from junctor.v1 import quota_pb2 as pb
from junctor.v1 import quota_pb2_grpc
from services.metering.quota import QuotaStore, Wish
from services.runtime.validation import Violations

MOST_WISHES = 1_000
_SUBJECT_LIMIT = 128
_HOLDER_LIMIT = 64
_LARGEST = 2**62


class QuotaServicer(quota_pb2_grpc.QuotaServicer):
    """Check, do, answer; errors are raised and translated by the server's interceptor."""

    def __init__(self, store: QuotaStore) -> None:
        self._store = store

    async def Lease(self, request: pb.LeaseRequest, context: Any) -> pb.LeaseResponse:
        _check(request)
        wishes = [_wish(wish) for wish in request.wishes]
        grants, holders = await self._store.lease(request.holder, request.lease_id, wishes)
        return pb.LeaseResponse(
            grants=[pb.LeaseGrant(granted=grant.granted, used=grant.used, taken=grant.taken) for grant in grants],
            holders=holders,
        )


def _check(request: pb.LeaseRequest) -> None:
    bad = Violations()
    if not 0 < len(request.holder) <= _HOLDER_LIMIT:
        bad.add("holder", f"must have 1 to {_HOLDER_LIMIT} characters")
    if request.lease_id < 1:
        bad.add("lease_id", "must be 1 or more")
    if len(request.wishes) > MOST_WISHES:
        bad.add("wishes", f"must be at most {MOST_WISHES}")
        bad.done()
    seen = set()
    for index, wish in enumerate(request.wishes):
        _check_wish(bad, f"wishes[{index}]", wish)
        if (window := _id(wish.window)) in seen:
            bad.add(f"wishes[{index}].window", "must not be named twice")
        seen.add(window)
    bad.done()


def _check_wish(bad: Violations, at: str, wish: pb.LeaseWish) -> None:
    window = wish.window
    if not 0 < len(window.subject) <= _SUBJECT_LIMIT:
        bad.add(f"{at}.window.subject", f"must have 1 to {_SUBJECT_LIMIT} characters")
    if window.unit not in pb.QuotaUnit.values() or window.unit == pb.QUOTA_UNIT_UNSPECIFIED:
        bad.add(f"{at}.window.unit", "must be REQUESTS, TOKENS or COST")
    if window.end.seconds <= window.start.seconds:
        bad.add(f"{at}.window.end", "must be after start")
    if not 0 <= window.allowed <= _LARGEST:
        bad.add(f"{at}.window.allowed", "must be 0 or more")
    if not 0 <= wish.used <= _LARGEST:
        bad.add(f"{at}.used", "must be 0 or more")
    if not wish.used <= wish.needed <= wish.wanted <= _LARGEST:
        bad.add(f"{at}.needed", "must be at least used, and at most wanted")


def _wish(wish: pb.LeaseWish) -> Wish:
    window = wish.window
    return Wish(_id(window), window.end.seconds, window.allowed, wish.used, wish.needed, wish.wanted)


def _id(window: pb.QuotaWindow) -> str:
    return f"{window.subject}/{window.unit}/{window.start.seconds}-{window.end.seconds}"
