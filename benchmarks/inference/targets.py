"""What is measured: junctor as one, as five and as several equal processes, nginx and Envoy as plain proxies."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.inference import machine, proxies

Child = subprocess.Popen[bytes]

_BIN = Path(sys.executable).parent
_PATIENCE = 60.0
JUNCTOR_PATH = "/apis/inference-gateway/v2/workspaces/default/openai/-/v1/chat/completions"
PLAIN_PATH = "/v1/chat/completions"
_REGISTRIES = ("ACCESS_CONTROL", "MODEL_REGISTRY", "PROVIDER_REGISTRY")
_INTERNAL = {"JUNCTOR_UPSTREAM_NETWORKS": "public,private,loopback"}
FIVE = ("access-control", "model-registry", "provider-registry", "inference-router", "gateway")


@dataclass
class Target:
    """A gateway, or nothing (``commands`` empty: the load goes to the provider itself)."""

    name: str
    port: int
    path: str
    commands: Sequence[Sequence[str]] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    model: str = "bench"
    provider: int | None = None
    """Port of the provider that has to be registered first."""
    rpc: int = 0
    """Port of the gRPC services for inference, if it has any."""
    leaders: list[int] = field(default_factory=list)
    """Its processes, as :mod:`machine` wants them; empty while it does not run."""
    start_seconds: float = 0.0

    def request(self, **options: object) -> bytes:
        """Write a chat request of some 330 bytes; see ``provider.c`` for ``options``, ``stream`` is one more."""
        stream = {"stream": True} if options.pop("stream", False) else {}
        body = {"model": self.model, "messages": _MESSAGES, **stream, "temperature": 0.7, "max_tokens": 128}
        return json.dumps(body | {"user": " ".join(f"{key}={value}" for key, value in options.items())}).encode()


_MESSAGES = [
    {"role": "user", "content": "Explain in two sentences why a gateway before several models is of use. " * 2}
]


def ask(port: int, method: str, path: str, body: bytes | None = None) -> int:
    """Make one call; returns the status, 0 if there was none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def free_port() -> int:
    """Return a port of loopback that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def direct(provider: int) -> Target:
    """Nothing in between."""
    return Target("no gateway", provider, PLAIN_PATH)


def junctor(folder: Path, provider: int) -> Target:
    """All of junctor in one process, as users start it."""
    port, rpc = free_port(), free_port()
    command = [str(_BIN / "junctor"), "up", "--port", str(port), "--grpc-port", str(rpc)]
    command += ["--no-demo", "--no-detect", "--data-dir", str(folder / "data")]
    return Target("junctor, one process", port, JUNCTOR_PATH, [command], _environ(), "default/bench", provider, rpc)


def junctor_workers(folder: Path, provider: int, workers: int) -> Target:
    """Gateway and router as equal processes that share their port, the registries as one more."""
    ports = {name: free_port() for name in ("registries", "router", "gateway")}
    environ = _environ() | _INTERNAL | {"JUNCTOR_SERVICE_TOKEN_FILE": str(folder / "service.token")}
    environ |= {f"JUNCTOR_{name}": f"127.0.0.1:{ports['registries']}" for name in _REGISTRIES}
    registries = [str(_BIN / "junctord"), *FIVE[:3], "--grpc-port", str(ports["registries"])]
    serving = [str(_BIN / "junctord"), *FIVE[3:], "--port", str(ports["gateway"]), "--grpc-port", str(ports["router"])]
    commands = [
        [*registries, "--data-dir", str(folder / "registries")],
        [*serving, "--data-dir", str(folder / "serving"), "--workers", str(workers)],
    ]
    name = f"junctor, {workers} worker" + "s" * (workers > 1)
    return Target(name, ports["gateway"], JUNCTOR_PATH, commands, environ, "default/bench", provider)


def junctor_apart(folder: Path, provider: int) -> Target:
    """Each service of junctor in a process of its own."""
    ports = {name: free_port() for name in FIVE}
    peers = {f"JUNCTOR_{name.upper().replace('-', '_')}": f"127.0.0.1:{ports[name]}" for name in FIVE[:4]}
    environ = _environ() | _INTERNAL | peers
    environ["JUNCTOR_SERVICE_TOKEN_FILE"] = str(folder / "service.token")
    commands = [
        [str(_BIN / "junctord"), name, "--data-dir", str(folder / name), _flag(name), str(ports[name])] for name in FIVE
    ]
    name, rpc = "junctor, five processes", ports["inference-router"]
    return Target(name, ports["gateway"], JUNCTOR_PATH, commands, environ, "default/bench", provider, rpc)


def nginx(folder: Path, provider: int) -> Target | None:
    """nginx, one worker; None if it is not installed."""
    port = free_port()
    command = proxies.nginx(folder, port, provider)
    return Target("nginx", port, PLAIN_PATH, [command]) if command else None


def envoy(folder: Path, provider: int) -> Target | None:
    """Envoy, one worker thread; None if it cannot be had."""
    port = free_port()
    command = proxies.envoy(folder, port, provider)
    return Target("Envoy", port, PLAIN_PATH, [command]) if command else None


def _flag(service: str) -> str:
    return "--port" if service == "gateway" else "--grpc-port"


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().startswith(("junctor_", "xdg_"))}


@contextmanager
def running(target: Target, folder: Path) -> Iterator[Target]:
    """Run a target until its first answer, and no longer than the block."""
    folder.mkdir(parents=True, exist_ok=True)
    environ = {**(target.environ or _environ()), "HOME": str(folder), "NO_PROXY": "*"}
    began = time.monotonic()
    with (folder / "log").open("wb") as log:
        children = [_child(command, folder, environ, log) for command in target.commands]
    target.leaders = [child.pid for child in children]
    try:
        _await_answer(target, folder)
        target.start_seconds = time.monotonic() - began
        yield target
    finally:
        _stop(target, children)


def _child(command: Sequence[str], folder: Path, environ: Mapping[str, str], log: IO[bytes]) -> Child:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _await_answer(target: Target, folder: Path) -> None:
    registered = target.provider is None
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if not registered:
            registered = _register(target) in (201, 409)
        if registered and ask(target.port, "POST", target.path, target.request()) == 200:
            return
        time.sleep(0.01)
    raise RuntimeError(f"{target.name} does not answer: {(folder / 'log').read_text(errors='replace')[-2000:]}")


def _register(target: Target) -> int:
    body = json.dumps({"name": "bench", "host_url": f"http://127.0.0.1:{target.provider}"}).encode()
    return ask(target.port, "POST", "/apis/models/v2/workspaces/default/providers", body)


def _stop(target: Target, children: Sequence[Child]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in machine.processes(target.leaders):
            os.kill(pid, number)
        end = time.monotonic() + 10
        while machine.processes(target.leaders) and time.monotonic() < end:
            for child in children:
                child.poll()
            time.sleep(0.02)
    for child in children:
        child.wait()
