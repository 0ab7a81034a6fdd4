"""HTTPS at the edge, over real sockets: what is spoken, what is refused, what a stream and its end look like."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from junctor import AsyncClient, Client
from junctor.errors import PeerUnavailable
from services.assembly import Node
from services.runtime.certificates import Certificates, KeyFiles
from services.runtime.http_server import listen
from services.runtime.tls_listener import TlsListener, server_context
from tests.cluster import Access, settings_for, until
from tests.mount import Mount
from tests.pki import Authority
from tests.upstream import CLOSE, Raw, ScriptedUpstream, Sse

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 20.0
CA = Authority()
CHAT = {"model": "default/test-model", "messages": [{"role": "user", "content": "hi"}]}
GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


def trusting(authority: Authority = CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem)


@dataclass
class Secured(Access):
    """A junctor whose listeners speak TLS."""

    node: Node
    mount: Mount

    @property
    def port(self) -> int:
        return self.node.http_port

    @contextmanager
    def exchanged(self, **files: str) -> Iterator[None]:
        """Exchange the files for a while. They are looked at now; the watch would do it within a second."""
        try:
            self.mount.put(**files)
            self.node._tls.certificates.look()
            yield
        finally:
            self.mount.put_pair(CA.issue("localhost"), CA)
            self.node._tls.certificates.look()


@asynccontextmanager
async def secured(folder: Path, **flags: Any) -> AsyncIterator[Secured]:
    mount = Mount(folder / "pki")
    mount.put_pair(CA.issue("localhost"), CA)
    files = {"tls_cert_file": str(mount.certificate), "tls_key_file": str(mount.key)}
    node = Node(settings_for(folder, **files, **flags))
    try:
        await node.start()
        url = f"https://localhost:{node.http_port}"
        async with httpx.AsyncClient(base_url=url, verify=trusting(), trust_env=False, timeout=60) as http:
            access = Secured(http, None, node, mount)  # type: ignore[arg-type]
            await access.answers("/health/ready")
            yield access
    finally:
        await node.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    async with secured(tmp_path_factory.mktemp("edge")) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(edge: Secured) -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        await edge.add_provider("tls", upstream.url)
        yield upstream


@asynccontextmanager
async def connected(
    port: int, context: ssl.SSLContext | None = None, name: str | None = "localhost"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=name if context else None, limit=1 << 16
        )
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
async def test_it_speaks(edge: Secured, version: ssl.TLSVersion) -> None:
    def shake() -> tuple[str | None, str | None]:
        context = trusting()
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        plain = socket.create_connection(("127.0.0.1", edge.port), timeout=PATIENCE)
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            return secure.version(), secure.selected_alpn_protocol()

    spoken, protocol = await asyncio.to_thread(shake)
    assert spoken == version.name.replace("_", ".")
    assert protocol == "http/1.1"


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_older_versions_are_refused(edge: Secured, version: str) -> None:
    said = await _openssl("-connect", f"127.0.0.1:{edge.port}", version, "-cipher", "ALL:@SECLEVEL=0")
    assert b"Cipher is (NONE)" in said
    assert b"CONNECTED" in said
    await edge.answers("/health/live")


async def test_a_client_with_another_authority_or_name_is_safe_from_us(edge: Secured) -> None:
    for context, name in ((trusting(Authority("other")), "localhost"), (trusting(), "elsewhere.test")):
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connected(edge.port, context, name):
                pass
    await edge.answers("/health/live")


@pytest.mark.parametrize("name", ["a" * 250, "..", "a b", "127.0.0.1", "\x01", "elsewhere.test"])
async def test_odd_server_names_and_hosts_change_nothing(edge: Secured, name: str) -> None:
    arguments = ("-connect", f"127.0.0.1:{edge.port}", "-quiet", "-servername", name)
    said = await _openssl(*arguments, sent=GET.replace(b"host: x", b"connection: close\r\nhost: elsewhere.test:1"))
    assert b"HTTP/1.1 200" in said


async def _openssl(*arguments: str, sent: bytes = b"") -> bytes:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", *arguments, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(PATIENCE):
        return (await process.communicate(sent))[0]


PLAIN: dict[str, bytes] = {
    "a request": GET,
    "a request with a body": b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000,
    "half a line": b"G",
}


@pytest.mark.parametrize("sent", PLAIN.values(), ids=PLAIN)
async def test_plain_http_is_told_so(edge: Secured, sent: bytes) -> None:
    async with connected(edge.port) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert json.loads(body)["detail"] == "This port speaks HTTPS: use https:// in the URL"


@pytest.mark.parametrize("sent", [b"\x00\x01\x02", b"\x80\x2e\x01", b"\x16\x03\x01\xff\xffrubbish" * 3000, b"\xff"])
async def test_what_is_neither_is_closed_without_a_word(edge: Secured, sent: bytes) -> None:
    async with connected(edge.port) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                assert not (await reader.read()).startswith(b"HTTP")
    await edge.answers("/health/live")


async def test_a_stream_arrives_event_by_event(edge: Secured, provider: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    provider.script(Sse(["a", gate, "b"]))
    async with edge.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "data: a"
        gate.set()
        assert "data: [DONE]" in [line async for line in lines]


async def test_a_stream_cut_by_the_provider_never_looks_complete(edge: Secured, provider: ScriptedUpstream) -> None:
    provider.script(Sse(["a", CLOSE]))
    async with edge.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        text = "".join([line async for line in answer.aiter_lines()])
    assert "error" in text
    assert "[DONE]" not in text


async def test_an_answer_without_length_that_breaks_has_no_goodbye(edge: Secured, provider: ScriptedUpstream) -> None:
    """HTTP/1.0: the end of the connection is the end of the answer, so only close_notify tells a whole one."""
    complete = await _old_client(edge, provider, Sse(["a"]))
    assert complete[0].endswith(b"data: [DONE]\n\n")
    assert complete[1] is None
    broken = await _old_client(edge, provider, Sse(["a", CLOSE]))
    assert b"[DONE]" not in broken[0]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    cut = await _old_client(edge, provider, Raw(head + b"4\r\nhalf\r\n", CLOSE))
    assert cut[0].endswith(b"half")
    assert isinstance(cut[1], OSError)


async def _old_client(
    edge: Secured, provider: ScriptedUpstream, behaviour: Any, *, path: str = "/v1/chat/completions"
) -> tuple[bytes, OSError | None]:
    provider.script(behaviour)
    body = json.dumps({**CHAT, "stream": True}).encode()
    request = f"POST {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    def ask() -> tuple[bytes, OSError | None]:
        found = b""
        plain = socket.create_connection(("127.0.0.1", edge.port), timeout=PATIENCE)
        # suppress_ragged_eofs off: an end without close_notify is an error, as it is to a strict client
        with trusting().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as secure:
            secure.sendall(request + body)
            try:
                while data := secure.recv(65_536):
                    found += data
            except OSError as error:
                return found, error
        return found, None

    return await asyncio.to_thread(ask)


async def test_a_slow_reader_pauses_the_provider(edge: Secured, provider: ScriptedUpstream) -> None:
    written = 0

    def endless() -> list[Any]:
        return ["x" * 60_000] * 2_000  # 120 MB, far beyond what buffers of sockets hold

    provider.script(Sse(endless()))
    body = json.dumps({**CHAT, "stream": True}).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    async with connected(edge.port, trusting()) as (reader, writer):
        writer.write(head % len(body) + body)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        before = _resident()
        await _settled(_resident)
        written = _resident() - before
        assert written < 60 * 1024 * 1024
        async with asyncio.timeout(120):
            while (data := await reader.read(1 << 20)) and b"[DONE]" not in data:
                pass


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def _settled(figure: Callable[[], int]) -> None:
    """Wait until a figure has stopped to grow."""
    same = 0
    last = figure()
    while same < 20:
        await asyncio.sleep(0.02)
        now = figure()
        same = same + 1 if now <= last else 0
        last = max(last, now)


async def test_a_client_that_goes_ends_the_call(edge: Secured, provider: ScriptedUpstream) -> None:
    provider.script(Sse(["a", asyncio.Event()]))
    async with edge.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        await anext(answer.aiter_lines())
    async with asyncio.timeout(PATIENCE):
        await provider.connections[-1].closed.wait()


async def test_a_new_certificate_is_shown_from_the_next_handshake_on(edge: Secured, provider: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    provider.script(Sse(["a", gate, "b"]))
    other = Authority("next")
    issued = other.issue("localhost")
    async with edge.http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as running:
        lines = running.aiter_lines()
        await anext(lines)
        with edge.exchanged(tls_crt=issued.certificate, tls_key=issued.key):
            async with connected(edge.port, trusting(other)) as (reader, writer):
                writer.write(GET)
                async with asyncio.timeout(PATIENCE):
                    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                found = writer.get_extra_info("ssl_object").getpeercert()
                assert int(found["serialNumber"], 16) == issued.serial
            with pytest.raises(ssl.SSLCertVerificationError):
                async with connected(edge.port, trusting()):
                    pass
        gate.set()
        assert "data: [DONE]" in [line async for line in lines]  # the stream of before goes on


async def test_half_an_exchange_keeps_the_one_before(edge: Secured) -> None:
    with edge.exchanged(tls_crt=Authority("next").issue("localhost").certificate, tls_key=""):
        async with connected(edge.port, trusting()) as (reader, writer):
            writer.write(GET)
            async with asyncio.timeout(PATIENCE):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_files_are_looked_at_without_being_asked(tmp_path: Path) -> None:
    async with secured(tmp_path) as edge:
        other = Authority("next")
        issued = other.issue("localhost")
        edge.mount.put(tls_crt=issued.certificate, tls_key=issued.key)

        async def shown() -> bool:
            try:
                async with connected(edge.port, trusting(other)):
                    return True
            except ssl.SSLError:
                return False

        await until(shown)


async def test_sdk_and_grpc_trust_a_private_authority(edge: Secured, provider: ScriptedUpstream) -> None:
    from junctor.v1 import inference_pb2 as pb

    message = pb.ChatMessage(role="user", content=[pb.ContentPart(text="hi")])
    request = pb.ChatCompletionRequest(model="default/test-model", messages=[message])
    where: dict[str, Any] = {"grpc_target": f"localhost:{edge.node.grpc_port}", "max_retries": 0}
    async with AsyncClient(edge.url, ca_file=str(edge.mount.authority), **where) as client:
        assert [model.id for model in await client.inference.models.list()]
        assert (await client.grpc.create_chat_completion(request)).choices

    def blocking() -> None:
        with Client(edge.url, ca_file=str(edge.mount.authority), **where) as client:
            assert client.inference.models.list()
            assert client.grpc.create_chat_completion(request).choices
            openai = client.models.get_openai_client()
            assert openai.models.list().data
            openai.close()

    await asyncio.to_thread(blocking)
    async with AsyncClient(edge.url, **where) as stranger:
        with pytest.raises(PeerUnavailable, match="its certificate is not trusted"):
            await stranger.status()


async def test_a_drain_answers_who_is_connected_and_ends(tmp_path: Path) -> None:
    async with secured(tmp_path) as edge, connected(edge.port, trusting()) as (reader, writer):
        writer.write(GET)
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"}")
            stopping = asyncio.create_task(edge.node.stop())
            head = b""
            while b"connection: close" not in head:
                writer.write(GET)
                head = await reader.readuntil(b"}")
            assert await reader.read() == b""
            await stopping


# -- the listener alone


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


@asynccontextmanager
async def listening(folder: Path, **limits: Any) -> AsyncIterator[tuple[TlsListener, int]]:
    mount = Mount(folder)
    mount.put_pair(CA.issue("localhost"), CA)
    context = server_context(Certificates().pair("edge", KeyFiles(mount.certificate, mount.key)))
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    made = TlsListener(listener, context, Echo, **limits)
    try:
        yield made, port
    finally:
        made.close()
        await made.wait_closed()


async def test_silence_ends_after_the_limit(tmp_path: Path) -> None:
    async with listening(tmp_path, handshake_seconds=0.05) as (made, port), connected(port) as (reader, _):
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        async with connected(port) as (slow, began):
            began.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # the beginning of a ClientHello, no more
            async with asyncio.timeout(PATIENCE):
                assert await slow.read() == b""
        await until(lambda: _none(made))


async def _none(listener: TlsListener) -> bool:
    return listener.handshakes == 0


async def test_a_flood_of_handshakes_is_bounded_and_keeps_nobody_out(tmp_path: Path) -> None:
    async with listening(tmp_path, most_handshakes=16) as (made, port):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for _, writer in idle[::2]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        await until(lambda: _at_most(made, 16))
        async with connected(port, trusting()) as (reader, writer):
            writer.write(b"hello")
            async with asyncio.timeout(PATIENCE):
                assert await reader.readexactly(5) == b"hello"
        assert made.handshakes <= 16
        for _, writer in idle:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in idle), return_exceptions=True)


async def _at_most(listener: TlsListener, count: int) -> bool:
    return 0 < listener.handshakes <= count


async def test_a_client_cannot_renegotiate(tmp_path: Path) -> None:
    async with listening(tmp_path) as (_, port):
        said = await _openssl("-connect", f"127.0.0.1:{port}", "-tls1_2", sent=b"R\n")
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said or b"error" in said
