"""The pods of rendered manifests as processes: their arguments, settings, mounts and probes as written.

What only a cluster has is replaced, and nothing else: Services and their ports by free ports of loopback, mounted
Secrets by files of the test's own, the data folder, and the Secret of the database by the test's PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from junctor.channel import open_channel
from services.settings_table import GATEWAY, PORTS
from tests.cluster import until
from tests.deploy.image import DEPLOY, image
from tests.deploy.manifests import STORES, Manifests, pod
from tests.e2e.processes import PATIENCE, Process, free_port
from tests.pki import Authority

ADMIN_PORT, PEER_PORT, EDGE_PORT = 9464, 50060, 8080


class Pods:
    """One pod of each Deployment."""

    def __init__(self, folder: Path, manifests: Manifests, database_url: str, authority: Authority) -> None:
        self._folder, self._manifests, self._url = folder, manifests, database_url
        subprocess.run(["bash", DEPLOY / "secrets.sh", folder / "secrets"], check=True, capture_output=True)
        if os.geteuid() == 0:  # here there is no other user: what the script gave to the image's is ours again
            for path in (folder / "secrets").iterdir():
                os.chown(path, 0, 0)
        for name in manifests.services():
            self._write_certificate(name, authority)
        (folder / "ca.crt").write_text(authority.pem)
        self._ports: dict[str, dict[int, int]] = {name: {} for name in manifests.services()}
        self.processes = {name: self._process(name, list(manifests.container(name)["args"])) for name in self._ports}

    @property
    def authority(self) -> ssl.SSLContext:
        """Trusts the certificates of the pods."""
        return ssl.create_default_context(cafile=self._folder / "ca.crt")

    @property
    def admin(self) -> dict[str, str]:
        """The header of who may do everything."""
        return {"authorization": f"Bearer {(self._folder / 'secrets' / 'admin.key').read_text().strip()}"}

    def port(self, name: str, number: int) -> int:
        """The free port that stands for a port of a service's pods."""
        return self._ports[name].setdefault(number, free_port())

    async def migrate(self) -> None:
        """Run the Jobs."""
        for name in STORES:
            (container,) = pod(self._manifests.objects["Job", f"junctor-{name}-migrate"])["containers"]
            job = Process("junctord", *container["args"], folder=self._folder / f"{name}-migrate")
            job.environ |= {"JUNCTOR_DATABASE_URL": self._url}
            assert await job.run() == 0, job.stderr

    async def becomes_ready(self, name: str) -> None:
        """Ask the probes as the kubelet does, until they say that the pod is ready."""
        container = self._manifests.container(name)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):

            async def asked(how: Any = container[probe]) -> bool:
                assert self.processes[name].running(), self.processes[name].stderr
                await asyncio.sleep(0.1)
                return await self._probe(name, how)

            await until(asked, seconds=PATIENCE)

    async def kill(self) -> None:
        for process in self.processes.values():
            await process.kill()

    async def _probe(self, name: str, how: Any) -> bool:
        if "grpc" in how:
            return await self._serving(self.port(name, how["grpc"]["port"]), how["grpc"]["service"])
        asked = how["httpGet"]
        port = {"admin": ADMIN_PORT, "http": EDGE_PORT}[asked["port"]]
        url = f"{asked.get('scheme', 'HTTP').lower()}://127.0.0.1:{self.port(name, port)}{asked['path']}"
        # The kubelet looks at no certificate.
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=PATIENCE) as http:
            try:
                return (await http.get(url)).is_success
            except httpx.TransportError:
                return False

    async def _serving(self, port: int, service: str) -> bool:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
            except grpc.aio.AioRpcError:
                return False
            return int(answer.status) == health_pb2.HealthCheckResponse.SERVING

    def _process(self, name: str, arguments: list[str]) -> Process:
        settings = self._manifests.settings(name)
        environ = {key: self._placed(name, key, value) for key, value in settings.items() if "JUNCTOR_" in key}
        environ |= {"JUNCTOR_UPSTREAM_NETWORKS": "public,private,loopback"}  # where the scripted provider is
        if name == GATEWAY:
            environ["JUNCTOR_PORT"] = str(self.port(name, EDGE_PORT))
        else:
            environ["JUNCTOR_GRPC_PORT"] = str(self.port(name, PORTS[name]))
        if name in STORES:
            environ["JUNCTOR_DATABASE_URL"] = self._url
        return Process(*image().entrypoint, *arguments, folder=self._folder / name, environ=environ)

    def _placed(self, name: str, key: str, value: str) -> str:
        if key in {"JUNCTOR_ADMIN_PORT", "JUNCTOR_PEER_PORT"}:
            return str(self.port(name, int(value)))

        def target(match: re.Match[str]) -> str:
            return f"dns:///127.0.0.1:{self.port(match[1], int(match[2]))}"

        value = re.sub(r"dns:///junctor-([a-z-]+):(\d+)", target, value)
        value = value.replace("/run/secrets/junctor", f"{self._folder}/secrets")
        value = value.replace("/run/secrets/tls", f"{self._folder}/{name}-tls")
        return value.replace("/var/lib/junctor", f"{self._folder}/{name}/lib").replace("0.0.0.0", "127.0.0.1")

    def _write_certificate(self, name: str, authority: Authority) -> None:
        folder = self._folder / f"{name}-tls"
        folder.mkdir()
        made = authority.issue(f"junctor-{name}")
        for file, text in (("tls.crt", made.certificate), ("tls.key", made.key), ("ca.crt", authority.pem)):
            (folder / file).write_text(text)
            (folder / file).chmod(0o600)


@asynccontextmanager
async def running(folder: Path, manifests: Manifests, database_url: str, authority: Authority) -> AsyncIterator[Pods]:
    """Pods that do not outlive the block; started, and ready by their own probes."""
    made = Pods(folder, manifests, database_url, authority)
    try:
        await made.migrate()
        for process in made.processes.values():
            await process.start()
        for name in made.processes:
            await made.becomes_ready(name)
        yield made
    finally:
        await made.kill()
