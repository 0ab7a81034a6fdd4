"""TLS between services: who gets a connection, who may call internal services, and what an exchange of files does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from junctor.channel import Peer, open_channel, open_peer
from junctor.errors import JunctorError, PeerUnavailable, PermissionDenied, Unauthenticated
from junctor.v1 import watch_pb2, workspaces_pb2, workspaces_pb2_grpc
from services.runtime.auth import Access, PeerRule, Proof, Secret, token_metadata
from services.runtime.certificates import Certificates, KeyFiles
from services.runtime.grpc_tls import RenewedChannel, open_tls_peer, server_credentials
from services.runtime.server import GrpcServer, create_server
from tests.cluster import until
from tests.mount import Mount
from tests.pki import Authority, Issued

PATIENCE = 20.0
TOKEN = Secret("t" * 43)
CA, OTHER = Authority("ca"), Authority("other")
SERVER = CA.issue("localhost")
ROUTER = CA.issue("router.test", uri="spiffe://test/router")
SERVICE = "junctor.v1.Workspaces"


class Workspaces(workspaces_pb2_grpc.WorkspacesServicer):
    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def GetWorkspace(self, request: Any, context: Any) -> Any:  # noqa: N802
        return workspaces_pb2.Workspace(name=request.name)

    async def WatchWorkspaces(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield workspaces_pb2.WorkspaceEvent()
        await self.gate.wait()
        yield workspaces_pb2.WorkspaceEvent()


class Side:
    """A server whose certificate, and whose clients' authority, are files."""

    def __init__(
        self, folder: Path, *, access: Access = Access.PUBLIC, rule: PeerRule | None = None, issued: Issued = SERVER
    ) -> None:
        self.mount = Mount(folder)
        self.mount.put_pair(issued, CA)
        self.certificates = Certificates()
        self.pair = self.certificates.pair("grpc", KeyFiles(self.mount.certificate, self.mount.key))
        self.clients = self.certificates.authorities("clients", self.mount.authority)
        self.servicer = Workspaces()
        self.server: GrpcServer = create_server(
            policy={SERVICE: access},
            token=TOKEN,
            credentials=server_credentials(self.pair, self.clients),
            peers=rule or PeerRule(),
        )
        self.server.add(workspaces_pb2_grpc.add_WorkspacesServicer_to_server, self.servicer)

    @property
    def target(self) -> str:
        return f"localhost:{self.server.port}"


@asynccontextmanager
async def side(folder: Path, **options: Any) -> AsyncIterator[Side]:
    made = Side(folder / "server", **options)
    made.server.bind("127.0.0.1", 0)
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop(0)


def credentials(authority: Authority, own: Issued | None) -> grpc.ChannelCredentials:
    key, chain = (own.key.encode(), own.certificate.encode()) if own else (None, None)
    return grpc.ssl_channel_credentials(authority.pem.encode(), key, chain)


async def call(peer: Peer) -> str:
    stub: Any = workspaces_pb2_grpc.WorkspacesStub(peer.channel)
    answer = await peer.call(stub.GetWorkspace, workspaces_pb2.GetWorkspaceRequest(name="lab"), timeout=PATIENCE)
    return str(answer.name)


async def told(
    target: str, authority: Authority | None, own: Issued | None = None, *, token: bool = False
) -> str | type[JunctorError]:
    """Return what a caller gets: the answer's name, or the class of its error."""
    channel = open_channel(target, credentials=None if authority is None else credentials(authority, own))
    peer = Peer(channel, metadata=token_metadata(TOKEN) if token else ())
    try:
        return await call(peer)
    except JunctorError as error:
        return type(error)
    finally:
        await peer.close()


HANDSHAKES: dict[str, tuple[Authority | None, Issued | None, str | type[JunctorError]]] = {
    "a certificate of the authority": (CA, ROUTER, "lab"),
    "none": (CA, None, PeerUnavailable),
    "of another authority": (CA, OTHER.issue("router.test"), PeerUnavailable),
    "expired": (CA, CA.issue("router.test", expired=True), PeerUnavailable),
    "no TLS": (None, None, PeerUnavailable),
    "a client that trusts another authority": (OTHER, ROUTER, PeerUnavailable),
}


@pytest.mark.parametrize(("authority", "own", "result"), HANDSHAKES.values(), ids=HANDSHAKES)
async def test_who_gets_a_connection(
    tmp_path: Path, authority: Authority | None, own: Issued | None, result: str | type[JunctorError]
) -> None:
    async with side(tmp_path) as server:
        assert await told(server.target, authority, own) == result


NOT_BELIEVED = {"another name": CA.issue("elsewhere.test"), "expired": CA.issue("localhost", expired=True)}


@pytest.mark.parametrize("issued", NOT_BELIEVED.values(), ids=NOT_BELIEVED)
async def test_which_server_is_not_believed(tmp_path: Path, issued: Issued) -> None:
    async with side(tmp_path, issued=issued) as server:
        assert await told(server.target, CA, ROUTER) is PeerUnavailable


ROUTER_BY_NAME = PeerRule(frozenset(("router.test",)))
BY_URI = PeerRule(frozenset(("spiffe://test/router",)))
ONLY_NAME = PeerRule(frozenset(("router.test",)), Proof.CERTIFICATE)
BOTH = PeerRule(frozenset(("router.test",)), Proof.BOTH)
GATEWAY = CA.issue("gateway.test")
SAME_SUBJECT = CA.issue("gateway.test", uri="https://router.test")
INTERNAL: dict[str, tuple[PeerRule, Issued, bool, str | type[JunctorError]]] = {
    "nothing set, nothing shown": (PeerRule(), ROUTER, False, Unauthenticated),
    "nothing set, the token": (PeerRule(), ROUTER, True, "lab"),
    "the name": (ROUTER_BY_NAME, ROUTER, False, "lab"),
    "the URI": (BY_URI, ROUTER, False, "lab"),
    "the token instead": (ROUTER_BY_NAME, GATEWAY, True, "lab"),
    "another name": (ROUTER_BY_NAME, GATEWAY, False, Unauthenticated),
    "a name that is only part of another": (ROUTER_BY_NAME, SAME_SUBJECT, False, Unauthenticated),
    "an address is no name": (PeerRule(frozenset(("127.0.0.1",))), ROUTER, False, Unauthenticated),
    "every name": (PeerRule(frozenset(("*",))), GATEWAY, False, "lab"),
    "only the name, and it is there": (ONLY_NAME, ROUTER, False, "lab"),
    "only the name, and the token is there": (ONLY_NAME, GATEWAY, True, PermissionDenied),
    "both": (BOTH, ROUTER, True, "lab"),
    "both, the token alone": (BOTH, GATEWAY, True, PermissionDenied),
    "both, the name alone": (BOTH, ROUTER, False, Unauthenticated),
}


@pytest.mark.parametrize(("rule", "own", "token", "result"), INTERNAL.values(), ids=INTERNAL)
async def test_who_may_call_an_internal_service(
    tmp_path: Path, rule: PeerRule, own: Issued, token: bool, result: str | type[JunctorError]
) -> None:
    async with side(tmp_path, access=Access.INTERNAL, rule=rule) as server:
        assert await told(server.target, CA, own, token=token) == result


async def test_ports_beside_each_other_ask_for_what_they_are_for(tmp_path: Path) -> None:
    made = Side(tmp_path / "server", access=Access.INTERNAL, rule=BOTH)
    made.server = create_server(
        policy={SERVICE: Access.INTERNAL}, token=TOKEN, credentials=server_credentials(made.pair), peers=ONLY_NAME
    )
    made.server.add(workspaces_pb2_grpc.add_WorkspacesServicer_to_server, made.servicer)
    made.server.bind("127.0.0.1", 0)
    peers = made.server.bind_peers("127.0.0.1", 0, server_credentials(made.pair, made.clients))
    inside = made.server.bind_inside()
    await made.server.start()
    try:
        assert await told(made.target, CA, None, token=True) is PermissionDenied  # connects, but has no name to show
        assert await told(f"localhost:{peers}", CA, ROUTER) == "lab"
        assert await told(f"localhost:{peers}", CA, None) is PeerUnavailable
        assert await told(f"127.0.0.1:{inside}", None, token=True) == "lab"
        assert await told(f"127.0.0.1:{inside}", None) is Unauthenticated
    finally:
        await made.server.stop(0)


async def test_health_is_told_over_tls(tmp_path: Path) -> None:
    async with side(tmp_path) as server:
        server.server.health.set(SERVICE, True)
        async with open_channel(server.target, credentials=credentials(CA, ROUTER)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_older_versions_are_refused(tmp_path: Path, version: str) -> None:
    async with side(tmp_path) as server:
        pipe = asyncio.subprocess.PIPE
        command = ("openssl", "s_client", "-connect", f"127.0.0.1:{server.server.port}", version)
        process = await asyncio.create_subprocess_exec(
            *command, "-cipher", "ALL:@SECLEVEL=0", stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate(b"")
        assert b"CONNECTED" in said
        assert b"Cipher is (NONE)" in said
        assert await told(server.target, CA, ROUTER) == "lab"


class Caller:
    """The other side: files of its own, and the channel that follows them."""

    def __init__(self, folder: Path, target: str) -> None:
        self.mount = Mount(folder)
        self.mount.put_pair(ROUTER, CA)
        self.certificates = Certificates()
        self.peer = open_tls_peer(
            target,
            name="workspaces",
            authorities=self.certificates.authorities("peers", self.mount.authority),
            own=self.certificates.pair("own", KeyFiles(self.mount.certificate, self.mount.key)),
        )
        self.stub: Any = workspaces_pb2_grpc.WorkspacesStub(self.peer.channel)


async def test_an_exchange_on_both_sides_breaks_no_stream_and_shuts_out_the_old_certificate(tmp_path: Path) -> None:
    async with side(tmp_path) as server:
        caller = Caller(tmp_path / "caller", server.target)
        try:
            stream = caller.peer.stream(caller.stub.WatchWorkspaces, watch_pb2.WatchRequest())
            await anext(stream)
            # In the order that loses nobody: first all trust both, then certificates change, then the old one goes.
            both = CA.pem + OTHER.pem
            new_server, new_router = OTHER.issue("localhost"), OTHER.issue("router.test")
            for mount, issued in ((server.mount, SERVER), (caller.mount, ROUTER)):
                mount.put(tls_crt=issued.certificate, tls_key=issued.key, ca_crt=both)
            await _all_look(server, caller)
            for mount, issued in ((server.mount, new_server), (caller.mount, new_router)):
                mount.put(tls_crt=issued.certificate, tls_key=issued.key, ca_crt=both)
            await _all_look(server, caller)
            for mount, issued in ((server.mount, new_server), (caller.mount, new_router)):
                mount.put(tls_crt=issued.certificate, tls_key=issued.key, ca_crt=OTHER.pem)
            await _all_look(server, caller)
            assert await told(server.target, OTHER, ROUTER) is PeerUnavailable  # the certificate of before
            assert await told(server.target, OTHER, new_router) == "lab"
            server.servicer.gate.set()
            await anext(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        finally:
            await caller.peer.close()


async def _all_look(server: Side, caller: Caller) -> None:
    server.certificates.look()
    caller.certificates.look()
    assert await call(caller.peer) == "lab"


async def test_a_caller_that_was_refused_gets_through_with_its_next_certificate(tmp_path: Path) -> None:
    async with side(tmp_path) as server:
        caller = Caller(tmp_path / "caller", server.target)
        stranger = OTHER.issue("router.test")
        caller.mount.put(tls_crt=stranger.certificate, tls_key=stranger.key, ca_crt=CA.pem)
        caller.certificates.look()
        try:
            with pytest.raises(PeerUnavailable):
                await call(caller.peer)
            waiting = asyncio.create_task(caller.peer.ready(PATIENCE))
            await asyncio.sleep(0)
            caller.mount.put_pair(ROUTER, CA)
            caller.certificates.look()
            await waiting
            assert await call(caller.peer) == "lab"
        finally:
            await caller.peer.close()


async def test_a_replaced_channel_goes_when_its_last_call_has_ended(tmp_path: Path) -> None:
    opened: list[grpc.aio.Channel] = []

    async with side(tmp_path) as server:

        def make() -> grpc.aio.Channel:
            opened.append(open_channel(server.target, credentials=credentials(CA, ROUTER)))
            return opened[-1]

        channel = RenewedChannel(make, leave_seconds=0.01)
        peer = Peer(channel)
        stub: Any = workspaces_pb2_grpc.WorkspacesStub(channel)
        stream = peer.stream(stub.WatchWorkspaces, watch_pb2.WatchRequest())
        await anext(stream)
        for _ in range(3):
            channel.renew()
        assert await call(peer) == "lab"

        async def left() -> bool:
            return channel.leaving == 1

        await until(left)  # the two in the middle have no calls; the first still has its stream
        server.servicer.gate.set()
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

        async def none_left() -> bool:
            return channel.leaving == 0

        await until(none_left)
        assert len(opened) == 4
        await peer.close()


async def test_the_channel_without_tls_is_as_before(tmp_path: Path) -> None:
    server = create_server(policy={SERVICE: Access.PUBLIC}, token=None)
    server.add(workspaces_pb2_grpc.add_WorkspacesServicer_to_server, Workspaces())
    peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="workspaces")
    try:
        assert await call(peer) == "lab"
    finally:
        await peer.close()
        await server.stop(0)
