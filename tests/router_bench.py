"""A real router over a catalog that a test fills by hand, and a sink that records what a caller would see."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from junctor.channel import open_peer
from junctor.errors import JunctorError
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.router import Figures, Router
from services.inference_router.upstream import UpstreamClient
from services.inference_router.upstream_types import Timers
from services.runtime.addresses import AddressPolicy
from services.runtime.egress import Egress
from services.runtime.exchange import Call, Head, Headers, Outcome, Route, Source
from tests.upstream import PATIENCE

NOWHERE = "127.0.0.1:1"
"""A target that nothing listens at; these channels are never used."""

JSON_TYPE = (b"content-type", b"application/json")


@dataclass
class Recorder:
    """A sink. ``failing`` names the callback that raises, ``pausing`` pauses the source at every piece."""

    failing: str = ""
    pausing: bool = False
    got: Head | None = None
    pieces: list[bytes] = field(default_factory=list)
    outcome: Outcome | None = None
    source: Source | None = None
    order: list[str] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def head(self, head: Head, source: Source) -> None:
        self.order.append("head")
        self.got, self.source = head, source
        self._fail("head")

    def data(self, data: bytes) -> None:
        assert data
        assert self.outcome is None
        if self.order[-1] != "data":
            self.order.append("data")
        self.pieces.append(data)
        self.began.set()
        self._fail("data")
        if self.pausing:
            assert self.source is not None
            self.source.pause_reading()

    def end(self, outcome: Outcome) -> None:
        self.order.append("end")
        self.outcome = outcome
        self.began.set()
        self._fail("end")

    def header(self, name: bytes) -> bytes | None:
        assert self.got is not None
        return next((value for key, value in self.got.headers if key == name), None)

    def _fail(self, where: str) -> None:
        if self.failing == where:
            raise SinkBroken(where)


class SinkBroken(Exception):
    """What a failing sink raises."""


@dataclass
class Bench:
    """The router, and what is behind it."""

    router: Router
    keeper: CatalogKeeper
    client: UpstreamClient

    def provider(
        self,
        name: str,
        host_url: str,
        served: Mapping[str, str] | None = None,
        *,
        status: pb.ProviderStatus.ValueType = pb.PROVIDER_STATUS_READY,
        **fields: Any,
    ) -> None:
        """Put a provider in; ``served`` maps entity names of ``default`` to upstream ids."""
        models = {"chat": "vendor/m"} if served is None else served
        message = pb.Provider(workspace="default", name=name, host_url=host_url, status=status, **fields)
        for entity, upstream_id in models.items():
            message.served_models.add(model_entity_id=f"default/{entity}", served_model_name=upstream_id)
        self.keeper.put_provider(message)

    def model(self, name: str = "chat", **routing: Any) -> None:
        """Put a virtual model in, for the entity of its name."""
        message = vpb.VirtualModel(workspace="default", name=name, default_model_entity=f"default/{name}")
        if routing:
            message.routing.CopyFrom(vpb.Routing(**routing))
        self.keeper.put_virtual_model(message)

    def in_turn(self, *urls: str, retry: vpb.RetryPolicy.ValueType = vpb.RETRY_POLICY_UNSPECIFIED) -> None:
        """Have model ``chat`` tried at providers ``p0``, ``p1`` … in this order."""
        for number, url in enumerate(urls):
            self.provider(f"p{number}", url)
        targets = [
            vpb.RoutingTarget(upstream=vpb.UpstreamTarget(provider=f"default/p{n}", upstream_id="vendor/m"), tier=n)
            for n in range(len(urls))
        ]
        self.model(policy=vpb.ROUTING_POLICY_PRIORITY, targets=targets, retry=retry)

    async def ask(self, call: Call | None = None, sink: Recorder | None = None) -> Recorder:
        """Make a call; its sink has all that there is to see."""
        sink = sink or Recorder()
        async with asyncio.timeout(PATIENCE):
            outcome = await self.router.invoke(call or openai(), sink)
        assert sink.outcome is outcome
        return sink

    async def result(self, call: Call) -> str:
        """Make a call; say how it ended: ``200 complete``, or the reason of the error."""
        try:
            sink = await self.ask(call)
        except JunctorError as error:
            return error.reason
        assert sink.got is not None
        assert sink.outcome is not None
        assert sink.order[0] == "head"
        assert sink.order[-1] == "end"
        return f"{sink.got.status} {sink.outcome.verdict.value}"

    async def idle(self) -> None:
        """Return when no exchange is under way; nothing of a call may be left then."""
        async with asyncio.timeout(PATIENCE):
            while self.client.in_flight:
                await asyncio.sleep(0)
        assert self.router.ledger.loads == {}


def openai(body: object = None, *, path: bytes = b"v1/chat/completions", method: str = "POST", **more: Any) -> Call:
    """A call of the openai route."""
    content = json.dumps({"model": "default/chat", "messages": []} if body is None else body).encode()
    more.setdefault("headers", [JSON_TYPE])
    return Call(Route.OPENAI, "default", "", method, path, body=content, **more)


def by_model(body: bytes = b'{"messages":[]}', *, method: str = "POST", name: str = "chat", **more: Any) -> Call:
    """A call of the model route."""
    more.setdefault("headers", [JSON_TYPE])
    return Call(Route.MODEL, "default", name, method, more.pop("path", b"v1/chat/completions"), body=body, **more)


def by_provider(
    body: bytes = b'{"model": "x"}',
    *,
    method: str = "POST",
    name: str = "p0",
    headers: Headers | None = None,
    **more: Any,
) -> Call:
    """A call of the provider route."""
    fields = [JSON_TYPE] if headers is None else headers
    return Call(Route.PROVIDER, "default", name, method, more.pop("path", b"v1/x"), headers=fields, body=body, **more)


CALLS: Mapping[str, Callable[..., Call]] = {"openai": openai, "model": by_model, "provider": by_provider}


POLICIES = [
    vpb.ROUTING_POLICY_LEAST_OUTSTANDING,
    vpb.ROUTING_POLICY_ROUND_ROBIN,
    vpb.ROUTING_POLICY_WEIGHTED,
    vpb.ROUTING_POLICY_PRIORITY,
    vpb.ROUTING_POLICY_STICKY,
]
"""Every policy there is."""


def fill_at_random(bench: Bench, chance: random.Random, urls: list[str]) -> None:
    """Make five providers in any state and three virtual models of any policy with fallbacks."""
    for number in range(5):
        bench.provider(
            f"p{number}",
            chance.choice(urls),
            {name: f"up/{name}" for name in ("aa", "bb", "cc") if chance.random() < 0.7},
            status=pb.PROVIDER_STATUS_READY if chance.random() < 0.85 else pb.PROVIDER_STATUS_ERROR,
            admin_state=chance.choices([pb.ADMIN_STATE_ACTIVE, pb.ADMIN_STATE_DRAINING], [9, 1])[0],
        )
    for name in ("aa", "bb", "cc"):
        targets = [
            vpb.RoutingTarget(model=f"default/{entity}", weight=chance.randrange(4), tier=chance.randrange(2))
            for entity in chance.sample(("aa", "bb", "cc"), chance.randrange(3))
        ]
        fallbacks = [] if name == "aa" else [chr(ord(name[0]) - 1) * 2]
        bench.model(name, policy=chance.choice(POLICIES), targets=targets, fallbacks=fallbacks)


@asynccontextmanager
async def benches(
    timers: Timers | None = None,
    *,
    total: float = 60.0,
    seeds: Sequence[int] = (1,),
    egress: Egress | None = None,
    **figures: Any,
) -> AsyncIterator[Bench]:
    """Run a router with an empty catalog; ``figures`` are more of :class:`Figures`."""
    providers, models = (open_peer(NOWHERE, name=name) for name in ("provider_registry", "model_registry"))
    keeper = CatalogKeeper(provider_registry=providers, model_registry=models, egress=egress)
    client = UpstreamClient(policy=AddressPolicy.parse("loopback"))
    keeper.on_retired = client.retire
    limits = Figures(total, timers or Timers(connect=10, first_byte=20, idle=20), **figures)
    draws = iter(seeds)
    router = Router(keeper, client, limits, seed=lambda: next(draws, 1))
    keeper.on_provider = router.ledger.provider_changed
    try:
        yield Bench(router, keeper, client)
    finally:
        await keeper.secrets.stop()
        await client.close()
        await providers.close()
        await models.close()
