"""TLS of the upstream client, against a real server with a private authority."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from services.inference_router.upstream import (
    FailureKind,
    Origin,
    Timers,
    TlsConfig,
    Transfer,
    UpstreamClient,
    UpstreamFailure,
    UpstreamRequest,
)
from services.runtime.addresses import AddressPolicy
from services.runtime.exchange import Headers
from services.runtime.tls import TlsContexts
from tests.pki import Authority
from tests.upstream import PATIENCE, Close, Hang, Raw, Reset, ScriptedUpstream, Sse, Truncate, head

OK = Raw(head(200, ("content-length", "2")) + b"ok")
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = request.param
    return runner


CA = Authority()
SERVER = CA.issue()
CLIENT = CA.issue("router.test")


class Body:
    def __init__(self) -> None:
        self.data = b""
        self.begun = asyncio.Event()

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        pass

    def on_data(self, data: bytes) -> None:
        self.data += data
        self.begun.set()

    def on_end(self) -> None:
        pass


async def resolve(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def make_client() -> UpstreamClient:
    return UpstreamClient(policy=AddressPolicy.parse("loopback"), resolver=resolve)


def ask(up: ScriptedUpstream, tls: TlsConfig | None, host: str = "provider.test", **timers: Any) -> UpstreamRequest:
    return UpstreamRequest(Origin("https", host, up.port, tls), b"POST", b"/", [], b"{}", Timers(**timers))


@pytest.mark.parametrize(
    ("host", "server_name"),
    [("provider.test", ""), ("127.0.0.1", ""), ("other.test", "provider.test")],
    ids=["name", "address", "server name given"],
)
def test_a_private_authority_is_trusted_when_given(run: Run, host: str, server_name: str) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=SERVER.server_context()) as up:
            client = make_client()
            up.script(Sse(["a", "b"]), Raw(head(200, ("content-length", "2")) + b"ok"))
            for expected in (b"data: a\n\ndata: b\n\ndata: [DONE]\n\n", b"ok"):
                body = Body()
                tls = TlsConfig(ca_pem=CA.pem, server_name=server_name)
                await client.exchange(ask(up, tls, host), body)
                assert body.data == expected
            assert len(up.connections) == 1
            await client.close()

    run(case())


@pytest.mark.parametrize(
    ("trusted", "host"),
    [(False, "provider.test"), (True, "other.test"), (True, "127.0.0.2")],
    ids=["unknown authority", "another name", "another address"],
)
def test_a_certificate_that_does_not_fit_is_refused(run: Run, host: str, *, trusted: bool) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=SERVER.server_context(), host="0.0.0.0") as up:
            client = make_client()
            with pytest.raises(UpstreamFailure) as caught:
                await client.exchange(ask(up, TlsConfig(ca_pem=CA.pem) if trusted else None, host), Body())
            assert caught.value.kind is FailureKind.TLS
            assert not caught.value.request_started
            assert not up.requests
            await client.close()
            assert client.open_connections == 0

    run(case())


def test_a_client_certificate_is_shown_when_given(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=SERVER.server_context(clients=CA)) as up:
            client = make_client()
            with pytest.raises(UpstreamFailure):
                await client.exchange(ask(up, TlsConfig(ca_pem=CA.pem)), Body())
            tls = TlsConfig(ca_pem=CA.pem, client_pem=CLIENT.pem)
            up.script(Raw(head(200, ("content-length", "2")) + b"ok"))
            body = Body()
            await client.exchange(ask(up, tls), body)
            assert body.data == b"ok"
            assert CLIENT.key not in repr(tls)
            await client.close()

    run(case())


@pytest.mark.parametrize(
    ("tls", "text"),
    [
        (TlsConfig(ca_pem="nonsense"), "The bundle of authorities cannot be used."),
        (TlsConfig(CA.pem, "x"), "The client certificate and its key cannot be used."),
        (TlsConfig(CA.pem, CLIENT.certificate + SERVER.key), "The client certificate and its key cannot be used."),
    ],
    ids=["authorities", "no certificate", "another's key"],
)
async def test_pem_that_cannot_be_used_is_a_tls_failure(tls: TlsConfig, text: str) -> None:
    async with ScriptedUpstream(tls=SERVER.server_context()) as up:
        client = make_client()
        with pytest.raises(UpstreamFailure) as caught:
            await client.exchange(ask(up, tls), Body())
        assert (caught.value.kind, str(caught.value)) == (FailureKind.TLS, text)
        await client.close()


def test_a_handshake_that_hangs_counts_as_connecting(run: Run) -> None:
    async def case() -> None:
        gone = asyncio.Event()

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1000):
                pass
            gone.set()
            writer.close()

        server = await asyncio.start_server(mute, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = make_client()
        request = UpstreamRequest(Origin("https", "a.test", port), b"GET", b"/", [], timers=Timers(connect=0.2))
        with pytest.raises(UpstreamFailure) as caught:
            await client.exchange(request, Body())
        assert caught.value.kind is FailureKind.CONNECT_TIMEOUT
        async with asyncio.timeout(PATIENCE):
            await gone.wait()
        await client.close()
        server.close()
        await server.wait_closed()

    run(case())


def test_a_plain_server_is_a_tls_failure(run: Run) -> None:
    async def case() -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = make_client()
        with pytest.raises(UpstreamFailure) as caught:
            await client.exchange(UpstreamRequest(Origin("https", "a.test", port), b"GET", b"/", []), Body())
        assert caught.value.kind is FailureKind.TLS
        await client.close()
        server.close()
        await server.wait_closed()

    run(case())


@pytest.mark.parametrize(
    ("behaviour", "kinds"),
    [
        (Close(), {FailureKind.CLOSED}),
        (Reset(), {FailureKind.RESET, FailureKind.CLOSED}),
        (Truncate("length"), {FailureKind.TRUNCATED}),
        (Truncate("chunked"), {FailureKind.TRUNCATED}),
        (Hang("middle"), {FailureKind.IDLE_TIMEOUT}),
    ],
    ids=["close", "reset", "short", "no last chunk", "silence"],
)
def test_broken_answers_over_tls_fail_as_over_tcp(run: Run, behaviour: Any, kinds: set[FailureKind]) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=SERVER.server_context()) as up:
            client = make_client()
            up.always(behaviour)
            with pytest.raises(UpstreamFailure) as caught:
                await client.exchange(ask(up, TlsConfig(ca_pem=CA.pem), idle=0.1), Body())
            assert caught.value.kind in kinds
            await client.close()
            assert client.open_connections == 0

    run(case())


def test_cancelling_over_tls_closes_the_connection(run: Run) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=SERVER.server_context()) as up:
            client = make_client()
            up.script(Hang("middle"))
            body = Body()
            task = asyncio.create_task(client.exchange(ask(up, TlsConfig(ca_pem=CA.pem)), body))
            await body.begun.wait()
            task.cancel()
            await asyncio.wait([task])
            async with asyncio.timeout(PATIENCE):
                await up.connections[0].closed.wait()
            await client.close()
            assert client.open_connections == 0

    run(case())


def test_what_is_wrong_with_a_certificate_is_said_without_a_name(run: Run) -> None:
    async def case() -> None:
        told = {}
        for name, server, trusted in (
            ("expired", CA.issue(expired=True), CA.pem),
            ("unknown", SERVER, Authority("other").pem),
            ("name", CA.issue("other.test"), CA.pem),
        ):
            async with ScriptedUpstream(tls=server.server_context()) as up:
                client = make_client()
                with pytest.raises(UpstreamFailure) as caught:
                    await client.exchange(ask(up, TlsConfig(ca_pem=trusted)), Body())
                told[name] = (caught.value.kind, str(caught.value))
                await client.close()
        assert told == {
            "expired": (FailureKind.TLS, "The provider's certificate has expired."),
            "unknown": (FailureKind.TLS, "The provider's certificate is not trusted: its authority is unknown."),
            "name": (FailureKind.TLS, "The provider's certificate is for another host name."),
        }

    run(case())


@contextmanager
def openssl_server(context: ssl.SSLContext) -> Iterator[int]:
    """A server whose refusal of a certificate reaches the caller: asyncio's closes without sending its alert."""

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with raw:
                wrapped = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                try:
                    wrapped.do_handshake()
                except ssl.SSLError:
                    with socket.socket(fileno=wrapped.detach()) as rest:  # closing it now would reset the connection
                        while rest.recv(4096):
                            pass

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        ("", "The provider demands a client certificate."),
        (Authority("other").issue().pem, "The provider does not trust the client certificate."),
    ],
    ids=["none", "of another authority"],
)
def test_a_provider_that_refuses_our_certificate_has_not_read_the_request(run: Run, pem: str, text: str) -> None:
    async def case() -> None:
        with openssl_server(SERVER.server_context(clients=CA)) as port:
            client = make_client()
            origin = Origin("https", "provider.test", port, TlsConfig(CA.pem, pem))
            with pytest.raises(UpstreamFailure) as caught:
                await client.exchange(UpstreamRequest(origin, b"PUT", b"/", [], b"{}"), Body())
            assert (caught.value.kind, str(caught.value)) == (FailureKind.TLS, text)
            assert not caught.value.request_started
            await client.close()

    run(case())


def test_a_retired_origin_keeps_no_connection(run: Run) -> None:
    async def case() -> None:
        gate = asyncio.Event()
        async with ScriptedUpstream(tls=SERVER.server_context()) as up:
            client = make_client()
            up.script(OK, Sse(["a", gate, "b"]))
            up.always(OK)
            request = ask(up, TlsConfig(ca_pem=CA.pem))
            await client.exchange(request, Body())
            client.retire(request.origin)
            await up.wait_for(up.connections[0].closed.is_set)
            body = Body()
            running = asyncio.create_task(client.exchange(request, body))
            await body.begun.wait()
            client.retire(request.origin)
            gate.set()
            await running
            assert body.data.endswith(b"data: b\n\ndata: [DONE]\n\n")
            await up.wait_for(up.connections[1].closed.is_set)
            assert (client.open_connections, client.idle_connections) == (0, 0)
            await client.exchange(request, Body())
            assert client.idle_connections == 1
            await client.close()

    run(case())


def test_bundles_may_have_names_of_any_script_between_certificates() -> None:
    bundle = f"# Autorité\n{Authority('other').pem}\n# 認証局\r\n{CA.pem}"
    assert len(TlsContexts().get(TlsConfig(bundle)).get_ca_certs()) == 2


def test_a_context_checks_names_whatever_is_given() -> None:
    context = TlsContexts().get(TlsConfig(CA.pem, CLIENT.pem, "x"))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
