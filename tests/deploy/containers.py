"""The containers of deploy/compose.yaml as processes: their commands, settings, secrets and health checks as written.

What only a container has is replaced, and nothing else: names and ports of the network by free ports of loopback, the
folder of secrets and the data folder by the test's own, and PostgreSQL's address by that of the test's server.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.cluster import until
from tests.deploy.image import DEPLOY, compose, image
from tests.e2e.processes import PATIENCE, Process, free_port

EDGE_PORT, ADMIN_PORT = 8080, 9464


class Containers:
    """All that run junctor, by the name of their service."""

    def __init__(self, folder: Path, database_url: str) -> None:
        subprocess.run(["bash", DEPLOY / "secrets.sh", folder / "secrets"], check=True, capture_output=True)
        self.variables = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())
        if os.geteuid() == 0:  # here there is no other user: what the script gave to the image's is ours again
            for path in (folder / "secrets").iterdir():
                os.chown(path, 0, 0)
        self.file = compose(self.variables)
        self._folder = folder
        self._image = image()
        self.services = {
            name: service
            for name, service in self.file["services"].items()
            if "command" in service and "build" in service
        }
        self._ports = {name: self._own_ports(name) for name in self.services}
        database = folder / "secrets" / "database.toml"
        database.write_text(re.sub(r'"postgresql://[^"]+"', f'"{database_url}"', database.read_text()))
        self.processes = {name: self._process(name) for name in self.services}

    @property
    def admin(self) -> dict[str, str]:
        """The header of who may do everything."""
        return {"authorization": f"Bearer {(self._folder / 'secrets' / 'admin.key').read_text().strip()}"}

    def port(self, name: str, number: int) -> int:
        """The free port that stands for a container's."""
        return self._ports[name][number]

    async def start(self, name: str) -> None:
        """Start a container, those it waits for before; a port that somebody took meanwhile fails it."""
        for other, how in self.services[name].get("depends_on", {}).items():
            if other not in self.services:
                continue
            assert how["condition"] == "service_completed_successfully"
            if not self.processes[other].running() and not (self._folder / other / "ended").exists():
                code = await self.processes[other].run()
                assert code == 0, self.processes[other].stderr
                (self._folder / other / "ended").touch()
        await self.processes[name].start()

    async def healthy(self, name: str) -> bool:
        """Run the image's health check in the container."""
        process = self.processes[name]
        command = [self._placed(name, part) for part in self._image.health]
        program = str(Path(sys.executable).with_name(command[0]))
        check = await asyncio.create_subprocess_exec(
            program, *command[1:], env=process.environ, stderr=asyncio.subprocess.DEVNULL
        )
        return await check.wait() == 0

    async def becomes_healthy(self, name: str) -> None:
        """Wait as an engine does."""

        async def asked() -> bool:
            assert self.processes[name].running(), self.processes[name].stderr
            return await self.healthy(name)

        await until(asked, seconds=PATIENCE)

    async def kill(self) -> None:
        for process in self.processes.values():
            await process.kill()

    def _own_ports(self, name: str) -> dict[int, int]:
        return {number: free_port() for number in sorted(self._image.exposed)}

    def _process(self, name: str) -> Process:
        service = self.services[name]
        allowed = set(service.get("secrets", []))
        environ = {**self._image.env, **{key: str(value) for key, value in service.get("environment", {}).items()}}
        for key in ("PATH", "HOME"):
            environ.pop(key, None)
        for value in environ.values():
            if value.startswith("/run/secrets/"):
                assert Path(value).name in allowed, f"{name} has no secret {value}"
        placed = {key: self._placed(name, value) for key, value in environ.items()}
        script, *fixed = self._image.entrypoint
        process = Process(script, *fixed, *service["command"], folder=self._folder / name, environ=placed)
        # What a process takes by default is a port of the image; a container has each for itself.
        number = {"gateway": EDGE_PORT}.get(name) or _grpc_port(self.file, name)
        if number:
            setting = "JUNCTOR_PORT" if name == "gateway" else "JUNCTOR_GRPC_PORT"
            process.environ[setting] = str(self.port(name, number))
        # The scripted provider is on this machine, which a provider in production must not be.
        process.environ["JUNCTOR_UPSTREAM_NETWORKS"] = "public,private,loopback"
        return process

    def _placed(self, name: str, text: str) -> str:
        def target(match: re.Match[str]) -> str:
            return f"dns:///127.0.0.1:{self.port(match[1], int(match[2]))}"

        text = re.sub(r"dns:///([\w-]+):(\d+)", target, text)
        text = text.replace("http://otel-collector:", "http://127.0.0.1:")  # where nobody listens: nothing waits for it
        text = text.replace("/run/secrets/", f"{self._folder}/secrets/")
        text = text.replace("/var/lib/junctor", str(self._folder / name / "lib"))
        text = text.replace("0.0.0.0", "127.0.0.1")
        if text == str(ADMIN_PORT):
            return str(self.port(name, ADMIN_PORT))
        return text.replace(f"127.0.0.1:{ADMIN_PORT}", f"127.0.0.1:{self.port(name, ADMIN_PORT)}")


def _grpc_port(file: dict[str, Any], name: str) -> int | None:
    """The port under which the others call the service."""
    setting = f"JUNCTOR_{name.upper().replace('-', '_')}"
    target = file["x-settings"].get(setting, "")
    return int(target.rpartition(":")[2]) if target else None


@asynccontextmanager
async def containers(folder: Path, database_url: str) -> AsyncIterator[Containers]:
    """Containers that do not outlive the block; nothing is started yet."""
    made = Containers(folder, database_url)
    try:
        yield made
    finally:
        await made.kill()
