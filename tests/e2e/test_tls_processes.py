"""Real processes with TLS between all of them: they serve through an exchange of every certificate and authority."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from junctor.channel import open_channel
from services.settings_table import GATEWAY, PORTS
from tests.cluster import Access, until
from tests.e2e.processes import PATIENCE, Deployment, Process, deployment, free_port, process, status_is
from tests.mount import Mount
from tests.pki import Authority, Issued
from tests.upstream import ScriptedUpstream, Sse

EVERY = (*PORTS, GATEWAY)
OLD, NEW = Authority("old"), Authority("new")
CALLERS = {
    "access-control": tuple(name for name in EVERY if name != "access-control"),
    "model-registry": ("provider-registry",),
    "provider-registry": ("inference-router",),
    "inference-router": ("inference-router",),
}
"""Who calls internal services of whom, as docs/tls.md has it."""
CHAT = {"model": "default/test-model", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def name_of(service: str) -> str:
    return f"{service}.junctor.test"


class Secured:
    """Five processes; each has a folder of its own with certificate, key and the authorities that it trusts."""

    def __init__(self, five: Deployment, folder: Path) -> None:
        self.five = five
        self.mounts = {service: Mount(folder / service) for service in EVERY}
        self.issued: dict[str, Issued] = {}
        self.put(OLD, OLD.pem)
        for service, one in five.processes.items():
            one.environ |= self._environ(service, self.mounts[service]) | {
                # Not one token for all: what the processes believe of each other, they believe of certificates.
                "JUNCTOR_SERVICE_TOKEN_FILE": str(one.folder / "service.token")
            }

    @staticmethod
    def _environ(service: str, mount: Mount) -> Mapping[str, str]:
        environ = {
            "JUNCTOR_TLS_CERT_FILE": str(mount.certificate),
            "JUNCTOR_TLS_KEY_FILE": str(mount.key),
            "JUNCTOR_PEER_CERT_FILE": str(mount.certificate),
            "JUNCTOR_PEER_KEY_FILE": str(mount.key),
            "JUNCTOR_PEER_CA_FILE": str(mount.authority),
        }
        if service == GATEWAY:
            return environ
        return environ | {
            "JUNCTOR_PEER_CLIENT_CA_FILE": str(mount.authority),
            "JUNCTOR_PEER_NAMES": ",".join(name_of(other) for other in CALLERS[service]),
            "JUNCTOR_PEER_PROOF": "certificate",
        }

    def put(self, issuer: Authority | None, trusted: str) -> None:
        """Exchange all files; ``issuer`` None: certificates stay."""
        for service, mount in self.mounts.items():
            if issuer is not None:
                self.issued[service] = issuer.issue(name_of(service))
            issued = self.issued[service]
            mount.put(tls_crt=issued.certificate, tls_key=issued.key, ca_crt=trusted)

    async def taken(self, *uses: str) -> None:
        """Wait until every process has read what it uses of these again, since the last time."""
        for service, one in self.five.processes.items():
            has = {"peer-authorities", "peer", *(("edge",) if service == GATEWAY else ("grpc", "client-authorities"))}
            await until(lambda one=one, wanted=has & set(uses): self._told(one, wanted), seconds=PATIENCE)
        for one in self.five.processes.values():
            (one.folder / "stderr").open("w").close()

    @staticmethod
    async def _told(one: Process, uses: Iterable[str]) -> bool:
        return all(f"the certificate for {use} was read again" in one.stderr for use in uses)

    @asynccontextmanager
    async def access(self) -> AsyncIterator[Access]:
        context = ssl.create_default_context(cadata=OLD.pem + NEW.pem)
        url = f"https://127.0.0.1:{self.five.http_port}"
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=60) as http:
            await until(lambda: status_is(http, "/health/ready", 200), seconds=PATIENCE)
            yield Access(http, None)  # type: ignore[arg-type]

    async def health(self, service: str, trusted: Authority, own: Issued | None) -> int:
        """Ask a process for its health, as a probe does; 0 without a connection."""
        key, chain = (own.key.encode(), own.certificate.encode()) if own else (None, None)
        credentials = grpc.ssl_channel_credentials(trusted.pem.encode(), key, chain)
        async with open_channel(f"127.0.0.1:{self.five.grpc_ports[service]}", credentials=credentials) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            except grpc.aio.AioRpcError:
                return 0
            return int(answer.status)


class Load:
    """Streams one after the other, on several lines, until told to stop."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.complete = 0
        self.failed: list[str] = []
        self._stop = asyncio.Event()

    async def run(self) -> None:
        while not self._stop.is_set():
            answer = await self._http.post("/v1/chat/completions", json=CHAT)
            if answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n"):
                self.complete += 1
            else:
                self.failed.append(f"{answer.status_code} {answer.text}")

    async def more(self, count: int = 20) -> None:
        """Wait until so many more are complete."""
        aim = self.complete + count

        async def reached() -> bool:
            return self.complete >= aim or bool(self.failed)

        await until(reached, seconds=PATIENCE)

    def stop(self) -> None:
        self._stop.set()


async def test_five_processes_serve_through_an_exchange_of_every_certificate(tmp_path: Path) -> None:
    async with deployment(tmp_path, *([name] for name in EVERY)) as five, ScriptedUpstream() as upstream:
        all_of_them = Secured(five, tmp_path / "pki")
        await five.start(order=random.Random())
        async with all_of_them.access() as access:
            await _with_secret(access, upstream, "before")
            gate = asyncio.Event()
            upstream.script(Sse(["a", gate, "b"]))
            async with access.http.stream("POST", "/v1/chat/completions", json=CHAT) as long:
                lines = long.aiter_lines()
                assert await anext(lines) == "data: a"
                load = Load(access.http)
                async with asyncio.TaskGroup() as running:
                    for _ in range(4):
                        running.create_task(load.run())
                    await load.more()
                    await _exchange(all_of_them, load)
                    load.stop()
                gate.set()
                assert "data: [DONE]" in [line async for line in lines]
            assert load.failed == []
            await _with_secret(access, upstream, "after")
            old = OLD.issue(name_of("inference-router"))
            serving = int(health_pb2.HealthCheckResponse.SERVING)
            for service in PORTS:
                assert await all_of_them.health(service, NEW, all_of_them.issued["inference-router"]) == serving
                assert await all_of_them.health(service, NEW, old) == 0
                assert await all_of_them.health(service, NEW, None) == 0
            for one in five.processes.values():
                assert not any(word in one.stderr for word in ("Traceback", "Handshake failed")), one.stderr


async def _exchange(all_of_them: Secured, load: Load) -> None:
    """In the order that loses nobody: everybody trusts both, then certificates change, then the old authority goes."""
    all_of_them.put(None, OLD.pem + NEW.pem)
    await all_of_them.taken("peer-authorities", "client-authorities")
    await load.more()
    all_of_them.put(NEW, OLD.pem + NEW.pem)
    await all_of_them.taken("edge", "grpc", "peer")
    await load.more()
    all_of_them.put(None, NEW.pem)
    await all_of_them.taken("peer-authorities", "client-authorities")
    await load.more()


async def _with_secret(access: Access, upstream: ScriptedUpstream, name: str) -> None:
    """Register a provider whose key only the internal services can have brought to the router."""
    created = await access.http.post(
        "/apis/secrets/v2/workspaces/default/secrets", json={"name": f"key-{name}", "value": f"sk-{name}"}
    )
    assert created.status_code == 201, created.text
    await access.add_provider(name, upstream.url, api_key_secret_name=f"key-{name}")
    path = f"/apis/inference-gateway/v2/workspaces/default/provider/{name}/-/v1/chat/completions"
    answer = await access.http.post(path, json={**CHAT, "model": "test-model", "stream": False})
    assert answer.status_code == 200, answer.text
    assert upstream.requests[-1].header("authorization") == f"Bearer sk-{name}"


async def test_workers_share_https_and_grpc_and_all_take_a_new_certificate(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "pki")
    mount.put_pair(OLD.issue("localhost"), OLD)
    port, grpc_port = free_port(), free_port()
    flags = ["--workers", "2", "--port", str(port), "--grpc-port", str(grpc_port), "--no-detect", "--data-dir", "data"]
    environ = {
        "JUNCTOR_TLS_CERT_FILE": str(mount.certificate),
        "JUNCTOR_TLS_KEY_FILE": str(mount.key),
        "JUNCTOR_SEED": "false",
    }
    async with process("junctor", "up", *flags, folder=tmp_path / "home", **environ) as up:
        await until(lambda: _ready_screen(up), seconds=PATIENCE)
        url = f"https://localhost:{port}"
        assert f"is ready on {url}" in up.stdout or "is ready on https://127.0.0.1" in up.stdout
        for authority in (OLD, NEW):
            if authority is NEW:
                mount.put_pair(NEW.issue("localhost"), NEW)

            async def both_show_it(authority: Authority = authority) -> bool:
                return all([await _shows(port, authority) for _ in range(20)])

            await until(both_show_it, seconds=PATIENCE)
            context = ssl.create_default_context(cadata=authority.pem)
            for _ in range(4):
                async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=60) as http:
                    answer = await http.post("/v1/chat/completions", json={**CHAT, "model": "demo-echo-1"})
                    assert answer.text.endswith("data: [DONE]\n\n")
                credentials = grpc.ssl_channel_credentials(authority.pem.encode())
                async with open_channel(f"localhost:{grpc_port}", credentials=credentials) as channel:
                    for service in ("junctor.v1.Inference", "junctor.v1.ProviderRegistry"):  # of a worker; relayed
                        request = health_pb2.HealthCheckRequest(service=service)
                        told = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE)
                        assert told.status == health_pb2.HealthCheckResponse.SERVING
        assert "Traceback" not in up.stderr


async def _ready_screen(up: Process) -> bool:
    assert up.running(), up.stderr
    return "is ready on" in up.stdout


async def _shows(port: int, authority: Authority) -> bool:
    context = ssl.create_default_context(cadata=authority.pem)
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    except ssl.SSLError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
