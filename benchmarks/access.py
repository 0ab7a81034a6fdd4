"""What asking who calls costs a request in one process: ``python -m benchmarks.access``. No network, one core.

Measured is all that auth adds between a head that is known and the provider that is chosen: the credential's look-up
at the edge, and the decision about the model in the router, against the same steps with auth off.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

from gateway_http.gate import Gate
from gateway_http.limits import RequestHead
from junctor.channel import open_peer
from junctor.v1 import access_pb2 as pb
from services.access.assertions import Assertions
from services.access.audit import AuditReporter
from services.access.authenticator import Authenticator
from services.access.identity import NOBODY, Caller
from services.access.keeper import AccessKeeper
from services.access.keys import hash_of, new_key
from services.access.saved import BookFile, SavedBook
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.permission import Permissions
from services.inference_router.resolution import Resolution
from services.inference_router.snapshot import VirtualModel
from services.runtime.auth import Secret
from services.runtime.exchange import Call, KnownHeaders, Route

ROUNDS, TIMES = 15, 20_000
KEYS = 10_000


def book_with(value: str) -> SavedBook:
    """Make a book of many keys, ours among them."""
    key = pb.ApiKey(id="key-ours", workspace="default", role=pb.ROLE_VIEWER, models=["test-*"])
    records = [pb.KeyRecord(key=key, hash=hash_of(value))]
    records += [pb.KeyRecord(key=pb.ApiKey(id=f"key-{n}"), hash=hash_of(f"other-{n}")) for n in range(KEYS)]
    return SavedBook(time.time(), [record.SerializeToString() for record in records], [], [])


def best(work: Callable[[], object]) -> float:
    """Return the median of the rounds, microseconds each time."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(TIMES):
            work()
        taken.append((time.perf_counter() - started) / TIMES * 1e6)
    return statistics.median(taken)


async def main() -> None:
    """Measure and print."""
    peer = open_peer("127.0.0.1:1", name="nobody")
    token, value = Secret("t" * 40), new_key()
    keeper = AccessKeeper(peer, BookFile(None, token), max_stale=3600)
    keeper.adopt(book_with(value))
    authenticator = Authenticator(keeper, Assertions(token))
    caller = await authenticator.prove(value)
    gate = Gate(authenticator, AuditReporter(peer), signs=False)
    headers = KnownHeaders([(b"host", b"x"), (b"authorization", f"Bearer {value}".encode())])
    head = RequestHead(b"POST", b"/v1/chat/completions", 1, headers, 100, True, {})
    catalog = CatalogKeeper(provider_registry=peer, model_registry=peer)
    permissions = Permissions(catalog, authenticator)
    found = Resolution(VirtualModel("default", "test-model"), (), ())
    call = Call(Route.PLAIN, "default", "", "POST", b"v1/chat/completions")

    def resolve() -> Resolution:
        return found

    def edge() -> None:
        admitted = gate.admit(head)
        assert isinstance(admitted, Caller)
        call.principal, call.assertion = admitted, gate.assertion(admitted)

    def step(work: Callable[[], object]) -> float:
        return best(work)

    def router() -> None:
        who = permissions.known(call)
        assert who is not None
        if who.limits.concurrency is None:
            permissions.resolve(who, call, "test-model", resolve)

    def off() -> None:
        if NOBODY is not caller:
            resolve()

    call.principal = caller
    nothing = best(off)
    at_edge, at_router = step(edge), step(router)
    print(f"auth off                      {nothing:6.2f} µs a request")
    print(f"edge: who calls               {at_edge:6.2f} µs")
    print(f"router: may call the model    {at_router - nothing:6.2f} µs")
    print(f"auth in all                   {at_edge + at_router - nothing:6.2f} µs ({KEYS} keys; median of {ROUNDS})")
    await peer.close()


if __name__ == "__main__":
    asyncio.run(main())
