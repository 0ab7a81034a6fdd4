"""Routers that take what they serve from out of other routers: what travels, who wins, and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from junctor import errors
from junctor.channel import Peer, open_peer
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import provider_registry_pb2_grpc, secrets_pb2_grpc, virtual_models_pb2_grpc, watch_pb2
from junctor.v1 import router_peers_pb2 as ppb
from junctor.v1 import secrets_pb2 as spb
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1.router_peers_pb2_grpc import (
    RouterPeersServicer,
    RouterPeersStub,
    add_RouterPeersServicer_to_server,
)
from services.inference_router.peer_copies import CopyLimits, PeerCopies, PeerName
from services.inference_router.peers_servicer import MOST_COPIES, PIECE_BYTES, PeersServicer, version_to
from services.inference_router.service import InferenceRouterService, RouterOptions
from services.process_tls import ProcessTls
from services.runtime.addresses import AddressPolicy
from services.runtime.auth import Access, PeerRule, Proof, Secret, token_metadata
from services.runtime.certificates import Certificates, KeyFiles
from services.runtime.grpc_tls import server_credentials
from services.runtime.keyring import Keyring
from services.runtime.server import create_server
from services.runtime.state_parts import Part, Version
from services.settings_tls import Tls
from tests.mount import Mount
from tests.pki import Authority
from tests.router_bench import Recorder, by_provider, openai
from tests.scripted_registries import Registries
from tests.upstream import PATIENCE, Json, ScriptedUpstream

TOKEN = Secret("t" * 40)
OK = Json(200, {"model": "vendor/m"})
GONE = 1
"""A port that nobody listens at."""


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def opened(target: str, _host: str) -> Peer:
    return open_peer(target, name="another router", metadata=token_metadata(TOKEN))


@asynccontextmanager
async def router(
    registries: int, *peers: int, folder: Path | None = None, token: Secret = TOKEN
) -> AsyncIterator[tuple[InferenceRouterService, int]]:
    """A router on a port of its own. ``registries`` and ``peers`` are ports."""
    names = ("provider-registry", "model-registry")
    channels = {name: open_peer(f"127.0.0.1:{registries}", name=name) for name in names}
    more: dict[str, Any] = {}
    if folder is not None:
        keyring = Keyring.load_or_create(folder / "secret.key")
        more = {"catalog_file": folder / "catalog.bin", "keyring": keyring, "save_seconds": 0.01}

    def shown(target: str, _host: str) -> Peer:
        return open_peer(target, name="another router", metadata=token_metadata(token))

    server = create_server(policy={"junctor.v1.RouterPeers": Access.INTERNAL}, token=TOKEN)
    port = server.bind("127.0.0.1", 0)
    options = RouterOptions(
        access=None,
        networks=AddressPolicy.parse("loopback"),
        connect_timeout=5,
        first_byte_timeout=20,
        idle_timeout=20,
        total_timeout=60,
        default_workspace="default",
        peers=tuple(PeerName("127.0.0.1", peer) for peer in (port, *peers)),  # among them itself
        open_peer=shown,
        **more,
    )
    service = InferenceRouterService(channels, options)
    service.register(server)
    await service.start()
    await server.start()
    try:
        yield service, port
    finally:
        await server.stop(0)
        await service.stop()
        for channel in channels.values():
            await channel.close()


async def ready(service: InferenceRouterService) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await service.ready():
            await asyncio.sleep(0.005)


def fill(registries: Registries, upstream: ScriptedUpstream) -> None:
    upstream.always(OK)
    registries.secret("key", "sk-1")
    registries.provider("p0", upstream.url, secret="key")
    registries.model()


async def key_of(service: InferenceRouterService, upstream: ScriptedUpstream) -> str | None:
    await service.invoker.invoke(by_provider(), Recorder())
    return upstream.requests[-1].header("authorization")


@pytest.fixture
async def registries(upstream: ScriptedUpstream) -> AsyncIterator[Registries]:
    async with Registries() as running:
        fill(running, upstream)
        yield running


async def test_an_empty_router_serves_from_another_while_every_registry_is_down(
    tmp_path: Path, registries: Registries, upstream: ScriptedUpstream
) -> None:
    async with router(registries.port) as (first, port):
        await ready(first)
        await registries.stop()
        async with router(registries.port, port, folder=tmp_path) as (second, middle):
            await ready(second)
            await second.invoker.invoke(openai(), Recorder())
            assert upstream.requests[-1].header("authorization") == "Bearer sk-1"
            await until((tmp_path / "catalog.bin").exists)
            async with router(registries.port, middle) as (third, _):  # it gives on what it was given
                await ready(third)
                assert await key_of(third, upstream) == "Bearer sk-1"
    async with router(registries.port, folder=tmp_path) as (again, _):
        await ready(again)
        assert await key_of(again, upstream) == "Bearer sk-1"


async def test_what_the_registries_say_later_wins(registries: Registries, upstream: ScriptedUpstream) -> None:
    async with router(registries.port) as (first, port):
        await ready(first)
        await registries.stop()
        async with router(registries.port, port) as (second, _):
            await ready(second)
            registries.secret("key", "sk-2")  # the same version, another value
            registries.provider("p9", upstream.url)
            registries.models.remove("default", "chat")
            await registries.start()
            await until(lambda: ("default", "p9") in second._keeper.catalog.providers)
            await until(lambda: not second._keeper.catalog.virtual_models)
            async with asyncio.timeout(PATIENCE):
                while await key_of(second, upstream) != "Bearer sk-2":
                    await asyncio.sleep(0.005)


async def test_a_router_alone_or_among_empty_ones_is_not_ready(upstream: ScriptedUpstream) -> None:
    async with router(GONE) as (first, port), router(GONE, port) as (second, _):
        asked = asyncio.create_task(second._copies._ask_all())  # type: ignore[union-attr]
        assert await asked is False
        assert not await first.ready()
        assert not await second.ready()


async def test_without_the_token_nothing_is_given(registries: Registries, caplog: pytest.LogCaptureFixture) -> None:
    async with router(registries.port) as (first, port):
        await ready(first)
        await registries.stop()
        async with router(registries.port, port, token=Secret("x" * 40)) as (second, _):
            assert await second._copies._ask_all() is False  # type: ignore[union-attr]
            assert not await second.ready()
        told = {record.reason for record in caplog.records if "gave no catalog" in record.getMessage()}  # type: ignore[attr-defined]
        assert "PERMISSION_DENIED" in told
        for metadata in ((), token_metadata(Secret("x" * 40))):
            peer = open_peer(f"127.0.0.1:{port}", name="p", metadata=metadata)
            with pytest.raises((errors.Unauthenticated, errors.PermissionDenied)):
                async for _ in peer.stream(RouterPeersStub(peer.channel).CopyState, ppb.CopyStateRequest()):
                    pass
            await peer.close()


# -- Watch goes on where the giver was


class Watched(provider_registry_pb2_grpc.ProviderRegistryServicer):
    """Registries that say nothing but that all is told, and note where they are asked to go on."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[str]] = {"providers": [], "secrets": [], "models": []}
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._epoch = "e1"

    async def start(self) -> None:
        self._server = server = grpc.aio.server()

        def following(kind: str, event: Any, resource: Any) -> Any:
            async def watch(_self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
                self.tokens[kind].append(request.resume_token)
                if not request.resume_token:
                    yield event(type=watch_pb2.WATCH_EVENT_TYPE_UPSERTED, resource=resource, revision=7)
                synced = watch_pb2.WATCH_EVENT_TYPE_SYNCED
                yield event(type=synced, revision=7, resume_token=f"{self._epoch}.7")
                await asyncio.Event().wait()

            return watch

        async def value(_self: Any, request: Any, context: Any) -> Any:
            return spb.AccessSecretResponse(value="sk-1", value_version=3)

        provider = pb.Provider(workspace="default", name="p0", host_url="http://h", api_key_secret_name="key")
        secret = spb.Secret(workspace="default", name="key", value_version=3)
        model = vpb.VirtualModel(workspace="default", name="chat")
        for base, add, methods in (
            (
                provider_registry_pb2_grpc.ProviderRegistryServicer,
                provider_registry_pb2_grpc.add_ProviderRegistryServicer_to_server,
                {"WatchProviders": following("providers", pb.ProviderEvent, provider)},
            ),
            (
                secrets_pb2_grpc.SecretStoreServicer,
                secrets_pb2_grpc.add_SecretStoreServicer_to_server,
                {"WatchSecrets": following("secrets", spb.SecretEvent, secret)},
            ),
            (
                secrets_pb2_grpc.SecretAccessServicer,
                secrets_pb2_grpc.add_SecretAccessServicer_to_server,
                {"AccessSecret": value},
            ),
            (
                virtual_models_pb2_grpc.VirtualModelsServicer,
                virtual_models_pb2_grpc.add_VirtualModelsServicer_to_server,
                {"WatchVirtualModels": following("models", vpb.VirtualModelEvent, model)},
            ),
        ):
            add(type("Servicer", (base,), methods)(), server)  # type: ignore[operator]
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.stop(None)


async def test_the_tokens_travel_so_that_nobody_begins_with_a_snapshot() -> None:
    watched = Watched()
    await watched.start()
    async with router(watched.port) as (first, port):
        await ready(first)
        await until(first._keeper.secrets.confirmed)
        await watched.stop()
        async with router(watched.port, port) as (second, _):
            await ready(second)
            assert second._keeper.revisions() == {"provider_registry": 7, "model_registry": 7}
            watched.tokens = {"providers": [], "secrets": [], "models": []}
            await watched.start()
            await until(lambda: first._keeper.virtual_models.connected and second._keeper.synced())
            assert {kind: set(tokens) for kind, tokens in watched.tokens.items()} == {
                "providers": {"e1.7"},
                "secrets": {"e1.7"},
                "models": {"e1.7"},
            }
            assert second._keeper.secrets.known() == {("default", "key"): "sk-1"}
    await watched.stop()


async def test_a_value_that_is_still_fetched_makes_the_secrets_begin_anew(
    registries: Registries, upstream: ScriptedUpstream
) -> None:
    async with router(registries.port) as (first, _):
        await ready(first)
        part = first._parts[0]
        first._keeper.secrets.follower.resume_from("e1.9")
        assert ppb.ProviderState.FromString((await part.give()).data).secrets_token == "e1.9"
        registries.gate.clear()
        reads = registries.reads
        registries.secret("key", "sk-2", version=2)
        await until(lambda: registries.reads > reads)
        first._keeper.secrets.follower.resume_from("e1.9")
        assert ppb.ProviderState.FromString((await part.give()).data).secrets_token == ""
        registries.gate.set()


# -- what is newer wins

NEWER: dict[str, tuple[Version, Version, bool]] = {
    "revision decides": (Version("e", 5, 1.0), Version("e", 4, 9.0), True),
    "an older revision heard of later": (Version("e", 4, 9.0), Version("e", 5, 1.0), False),
    "the same": (Version("e", 5, 9.0), Version("e", 5, 1.0), False),
    "a store made anew": (Version("f", 1, 9.0), Version("e", 5, 1.0), True),
    "a store that is gone": (Version("e", 5, 1.0), Version("f", 1, 9.0), False),
    "a file of the release before": (Version("e", 5, 9.0), Version("", 5, 1.0), True),
}


@pytest.mark.parametrize(("theirs", "own", "wins"), NEWER.values(), ids=NEWER.keys())
def test_which_of_two_copies_is_newer(theirs: Version, own: Version, wins: bool) -> None:
    assert theirs.newer_than(own) is wins


def models_part(version: Version, *names: str, token: str = "") -> Part:
    models = [vpb.VirtualModel(workspace="default", name=name) for name in names]
    state = ppb.VirtualModelState(virtual_models=models, virtual_models_token=token)
    return Part("model_registry", version, state.SerializeToString())


async def test_an_older_copy_does_not_replace_a_newer_one_nor_what_a_registry_said(registries: Registries) -> None:
    async with router(GONE) as (service, _):
        part = service._parts[1]
        assert await part.take(models_part(Version("e", 5, 1.0), "five", token="e.5"))
        assert not await part.take(models_part(Version("e", 4, 9.0), "four"))
        assert [*service._keeper.catalog.virtual_models] == [("default", "five")]
        assert service._keeper.virtual_models.token == "e.5"
        assert await part.take(models_part(Version("e", 6, 1.0), "six"))
        assert [*service._keeper.catalog.virtual_models] == [("default", "six")]
    async with router(registries.port) as (service, _):
        await ready(service)
        assert not await service._parts[1].take(models_part(Version("z", 99, time.time()), "late"))
        assert [*service._keeper.catalog.virtual_models] == [("default", "chat")]


async def test_a_copy_drops_what_the_older_one_had_secrets_included() -> None:
    async with router(GONE) as (service, _):
        keeper, part = service._keeper, service._parts[0]
        for revision, name in ((1, "old"), (2, "new")):
            provider = pb.Provider(workspace="default", name=name, host_url="http://h", api_key_secret_name=f"k-{name}")
            secret = ppb.SecretValue(workspace="default", name=f"k-{name}", value=f"sk-{name}", value_version=1)
            state = ppb.ProviderState(providers=[provider], secrets=[secret])
            assert await part.take(Part(part.name, Version("e", revision, 1.0), state.SerializeToString()))
        assert [*keeper.catalog.providers] == [("default", "new")]
        assert keeper.secrets.known() == {("default", "k-new"): "sk-new"}


async def test_only_what_is_not_held_is_sent(registries: Registries) -> None:
    async with router(registries.port) as (service, port):
        await ready(service)
        held = [ppb.HeldPart(name=p.name, version=version_to(p.version())) for p in service._parts]  # type: ignore[arg-type]
        held[0].version.as_of.seconds -= 60
        held[1].version.as_of.seconds += 60
        async with asyncio.timeout(PATIENCE):
            peer = opened(f"127.0.0.1:{port}", "")
            call = peer.stream(RouterPeersStub(peer.channel).CopyState, ppb.CopyStateRequest(held=held))
            said = [message async for message in call]
            await peer.close()
    assert said[0].instance
    assert [message.part.name for message in said[1:]] == ["provider_registry"]
    assert said[1].part.last


# -- more parts, and bounds


class Blob:
    """A part of somebody else's."""

    name = "access"

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def version(self) -> Version | None:
        return Version("a", len(self.data), 1.0) if self.data else None

    def wanted(self) -> bool:
        return not self.data

    async def give(self) -> Part:
        return Part(self.name, Version("a", len(self.data), 1.0), self.data)

    async def take(self, part: Part) -> bool:
        self.data = part.data
        return True


Script = Callable[[ppb.CopyStateRequest], AsyncIterator[ppb.CopyStateResponse]]


class Scripted(RouterPeersServicer):
    def __init__(self, script: Script) -> None:
        self._script = script
        self.asked = 0

    async def CopyState(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - grpc's name
        self.asked += 1
        async for message in self._script(request):
            yield message


@asynccontextmanager
async def peer_server(servicer: Any) -> AsyncIterator[int]:
    server = create_server(policy={"junctor.v1.RouterPeers": Access.INTERNAL}, token=TOKEN)
    server.add(add_RouterPeersServicer_to_server, servicer)
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop(0)


def copies(part: Any, *ports: int, **limits: float) -> PeerCopies:
    names = [PeerName("127.0.0.1", port) for port in ports]
    bounds = replace(CopyLimits(size=4 * PIECE_BYTES, seconds=5.0, stagger=0.02), **limits)  # type: ignore[arg-type]
    return PeerCopies(names, [part], instance="me", opened=opened, limits=bounds)


async def test_a_part_of_several_pieces_and_one_that_is_not_known_travel() -> None:
    large, other = Blob(bytes(range(256)) * 4096 * 2 + b"end"), Blob(b"x")
    other.name = "of a later release"
    async with peer_server(PeersServicer([other, large], ready=lambda: True)) as port:
        mine = Blob()
        await copies(mine, port).run()
        assert mine.data == large.data


def piece(data: bytes = b"x", *, name: str = "access", last: bool = True, **version: Any) -> ppb.CopyStateResponse:
    made = ppb.StateVersion(epoch="a", revision=version.get("revision", 1))
    return ppb.CopyStateResponse(part=ppb.StatePart(name=name, version=made, data=data, last=last))


async def _says(*messages: ppb.CopyStateResponse) -> AsyncIterator[ppb.CopyStateResponse]:
    for message in messages:
        yield message


async def _never(*messages: ppb.CopyStateResponse) -> AsyncIterator[ppb.CopyStateResponse]:
    for message in messages:
        yield message
    await asyncio.Event().wait()


async def _for_ever(*messages: ppb.CopyStateResponse) -> AsyncIterator[ppb.CopyStateResponse]:
    for message in messages:
        yield message
    while True:
        yield messages[-1]


HELLO = ppb.CopyStateResponse(instance="other")
HOSTILE: dict[str, Callable[[], AsyncIterator[ppb.CopyStateResponse]]] = {
    "nothing": _says,
    "no name": lambda: _says(ppb.CopyStateResponse(instance=""), piece()),
    "myself": lambda: _says(ppb.CopyStateResponse(instance="me"), piece()),
    "a piece of nothing": lambda: _says(HELLO, piece(name="")),
    "mixed pieces": lambda: _says(HELLO, piece(last=False), piece(name="other")),
    "broken off": lambda: _says(HELLO, piece(last=False)),
    "a revision below 0": lambda: _says(HELLO, piece(revision=-1)),
    "silent from the start": _never,
    "silent in a part": lambda: _never(HELLO, piece(last=False)),
    "too large": lambda: _for_ever(HELLO, piece(b"x" * PIECE_BYTES, last=False)),
    "a part that is not known, without end": lambda: _for_ever(HELLO, piece(b"x" * PIECE_BYTES, name="z")),
    "empty pieces without end": lambda: _for_ever(HELLO, piece(b"", last=False)),
}


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_router_that_breaks_the_rules_gives_nothing_and_keeps_nobody_from_another(
    script: Callable[[], AsyncIterator[ppb.CopyStateResponse]],
) -> None:
    bad = Scripted(lambda request: script())
    async with peer_server(bad) as port, asyncio.timeout(PATIENCE):
        mine = Blob()
        assert await copies(mine, port, seconds=0.3)._ask_all() is False
        assert mine.data == b""
        async with peer_server(PeersServicer([Blob(b"good")], ready=lambda: True)) as good:
            asking = copies(mine, port, good, seconds=60.0)
            running = asyncio.create_task(asking.run())
            await until(lambda: mine.data == b"good")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("name", ["access", "of a later release"])
async def test_a_copy_that_is_too_large_is_given_up_long_before_its_time(name: str) -> None:
    endless = Scripted(lambda request: _for_ever(HELLO, piece(b"x" * PIECE_BYTES, name=name, last=name != "access")))
    async with peer_server(endless) as port, asyncio.timeout(PATIENCE):
        assert await copies(Blob(), port, seconds=3600.0)._ask_all() is False


POISON: dict[str, tuple[int, bytes]] = {
    "no message": (0, b"\xff" * 40),
    "a name that is none": (0, ppb.ProviderState(providers=[{"workspace": "a/b", "name": "p0"}]).SerializeToString()),
    "no workspace": (1, ppb.VirtualModelState(virtual_models=[{"name": "p0"}]).SerializeToString()),
    "a token that is none": (1, ppb.VirtualModelState(virtual_models_token="e." + "9" * 999).SerializeToString()),
}


@pytest.mark.parametrize(("number", "data"), POISON.values(), ids=POISON.keys())
async def test_a_poisoned_part_is_refused_whole(number: int, data: bytes) -> None:
    name = ("provider_registry", "model_registry")[number]
    bad = Scripted(lambda request: _says(HELLO, piece(data, name=name)))
    async with peer_server(bad) as port, router(GONE, port) as (service, _):
        await until(lambda: bad.asked)
        assert await service._copies._ask_all() is False  # type: ignore[union-attr]
        assert service._parts[number].version() is None
        assert not await service.ready()
        assert not service._keeper.catalog.providers


NAMED = {"the name that was asked for": ("routers.test", True), "another name": ("elsewhere.test", False)}


@pytest.mark.parametrize(("name", "taken"), NAMED.values(), ids=NAMED.keys())
async def test_with_tls_the_certificate_must_have_the_name_not_the_address(
    tmp_path: Path, name: str, taken: bool
) -> None:
    authority = Authority()
    mount = Mount(tmp_path)
    mount.put_pair(authority.issue("routers.test", address="127.0.0.9"), authority)
    files = KeyFiles(mount.certificate, mount.key)
    kept = Certificates().pair("grpc", files), Certificates().authorities("clients", mount.authority)
    server = create_server(
        policy={"junctor.v1.RouterPeers": Access.INTERNAL},
        token=TOKEN,
        credentials=server_credentials(*kept),
        peers=PeerRule(frozenset({"routers.test"}), Proof.CERTIFICATE),
    )
    server.add(add_RouterPeersServicer_to_server, PeersServicer([Blob(b"good")], ready=lambda: True))
    port = await server.start("127.0.0.1", 0)
    tls, mine = ProcessTls(Tls(peer_authorities=mount.authority, own=files)), Blob()

    async def resolver(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    def over_tls(target: str, host: str) -> Peer:
        return Peer(tls.open_channel(target, host=host))

    asking = PeerCopies([PeerName(name, port)], [mine], instance="me", opened=over_tls, resolver=resolver)
    assert await asking._ask_all() is taken
    assert mine.data == (b"good" if taken else b"")
    await server.stop(0)


async def test_a_time_in_the_future_is_taken_as_now() -> None:
    future = version_to(Version("a", 1, time.time() + 86_400))
    taken: list[Version] = []

    class Noting(Blob):
        async def take(self, part: Part) -> bool:
            taken.append(part.version)
            return await super().take(part)

    answer = ppb.CopyStateResponse(part=ppb.StatePart(name="access", version=future, data=b"x", last=True))
    async with peer_server(Scripted(lambda request: _says(HELLO, answer))) as port:
        await copies(Noting(), port).run()
    assert taken[0].as_of < time.time() + 60


async def test_a_router_gives_to_few_at_a_time_and_nothing_before_it_has_all() -> None:
    gate, whole = asyncio.Event(), False

    class Slow(Blob):
        async def give(self) -> Part:
            await gate.wait()
            return await super().give()

    giver = PeersServicer([Slow(b"x")], ready=lambda: whole)
    async with peer_server(giver) as port, asyncio.timeout(PATIENCE):
        assert await copies(Blob(), port)._ask_all() is False
        whole = True
        waiting = [asyncio.create_task(copies(Blob(), port, seconds=60)._ask_all()) for _ in range(MOST_COPIES)]
        await until(lambda: giver._giving == MOST_COPIES)
        assert await copies(Blob(), port)._ask_all() is False
        gate.set()
        assert await asyncio.gather(*waiting) == [True] * MOST_COPIES
        await until(lambda: giver._giving == 0)
