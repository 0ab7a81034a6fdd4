"""TLS of the upstream client, against a real server with a private authority."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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
from tests.upstream import PATIENCE, Close, Hang, Raw, Reset, ScriptedUpstream, Sse, Truncate, head

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = request.param
    return runner


@dataclass(frozen=True)
class Pki:
    ca: str
    server: Path
    client_certificate: str
    client_key: str
    ca_file: Path

    def server_context(self, *, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        context.set_alpn_protocols(["h2", "http/1.1"])
        if ask_client:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_key, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _pem(part: x509.Certificate | ec.EllipticCurvePrivateKey) -> str:
    if isinstance(part, x509.Certificate):
        return part.public_bytes(serialization.Encoding.PEM).decode()
    return part.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    ca_key, server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca = _pem(_certificate("test-ca", ca_key, "test-ca", ca_key))
    server, ca_file = folder / "server.pem", folder / "ca.pem"
    server.write_text(_pem(_certificate("provider.test", server_key, "test-ca", ca_key)) + _pem(server_key))
    ca_file.write_text(ca)
    client = _pem(_certificate("router.test", client_key, "test-ca", ca_key))
    return Pki(ca, server, client, _pem(client_key), ca_file)


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
def test_a_private_authority_is_trusted_when_given(run: Run, pki: Pki, host: str, server_name: str) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=pki.server_context()) as up:
            client = make_client()
            up.script(Sse(["a", "b"]), Raw(head(200, ("content-length", "2")) + b"ok"))
            for expected in (b"data: a\n\ndata: b\n\ndata: [DONE]\n\n", b"ok"):
                body = Body()
                tls = TlsConfig(ca_pem=pki.ca, server_name=server_name)
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
def test_a_certificate_that_does_not_fit_is_refused(run: Run, pki: Pki, host: str, *, trusted: bool) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=pki.server_context(), host="0.0.0.0") as up:
            client = make_client()
            with pytest.raises(UpstreamFailure) as caught:
                await client.exchange(ask(up, TlsConfig(ca_pem=pki.ca) if trusted else None, host), Body())
            assert caught.value.kind is FailureKind.TLS
            assert not caught.value.request_started
            assert not up.requests
            await client.close()
            assert client.open_connections == 0

    run(case())


def test_a_client_certificate_is_shown_when_given(run: Run, pki: Pki) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=pki.server_context(ask_client=True)) as up:
            client = make_client()
            with pytest.raises(UpstreamFailure):
                await client.exchange(ask(up, TlsConfig(ca_pem=pki.ca)), Body())
            tls = TlsConfig(ca_pem=pki.ca, client_pem=pki.client_certificate + pki.client_key)
            up.script(Raw(head(200, ("content-length", "2")) + b"ok"))
            body = Body()
            await client.exchange(ask(up, tls), body)
            assert body.data == b"ok"
            assert pki.client_key not in repr(tls)
            await client.close()

    run(case())


@pytest.mark.parametrize("tls", [TlsConfig(ca_pem="nonsense"), TlsConfig(client_pem="x")])
async def test_pem_that_cannot_be_read_is_a_tls_failure(pki: Pki, tls: TlsConfig) -> None:
    async with ScriptedUpstream(tls=pki.server_context()) as up:
        client = make_client()
        with pytest.raises(UpstreamFailure) as caught:
            await client.exchange(ask(up, tls), Body())
        assert caught.value.kind is FailureKind.TLS
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
def test_broken_answers_over_tls_fail_as_over_tcp(run: Run, pki: Pki, behaviour: Any, kinds: set[FailureKind]) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=pki.server_context()) as up:
            client = make_client()
            up.always(behaviour)
            with pytest.raises(UpstreamFailure) as caught:
                await client.exchange(ask(up, TlsConfig(ca_pem=pki.ca), idle=0.1), Body())
            assert caught.value.kind in kinds
            await client.close()
            assert client.open_connections == 0

    run(case())


def test_cancelling_over_tls_closes_the_connection(run: Run, pki: Pki) -> None:
    async def case() -> None:
        async with ScriptedUpstream(tls=pki.server_context()) as up:
            client = make_client()
            up.script(Hang("middle"))
            body = Body()
            task = asyncio.create_task(client.exchange(ask(up, TlsConfig(ca_pem=pki.ca)), body))
            await body.begun.wait()
            task.cancel()
            await asyncio.wait([task])
            async with asyncio.timeout(PATIENCE):
                await up.connections[0].closed.wait()
            await client.close()
            assert client.open_connections == 0

    run(case())
