"""Builds the two C programs, runs the provider, puts a target under load and counts what that took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inference import machine
from benchmarks.inference.proxies import cache
from benchmarks.inference.targets import Target, ask, free_port


@dataclass(frozen=True)
class Run:
    """One load on one target. ``report`` is what ``load.c`` printed; times in µs."""

    report: dict[str, Any]
    cpu: float
    """CPU seconds of all processes of the target."""
    speed: float
    """Of the machine meanwhile; see :func:`machine.speed`."""

    @property
    def per_request(self) -> float:
        """CPU µs."""
        return self.cpu * 1e6 / max(1, int(self.report["complete"]))

    @property
    def per_event(self) -> float:
        """CPU µs, the streams' beginning included."""
        return self.cpu * 1e6 / max(1, int(self.report["events"]))

    @property
    def rate(self) -> float:
        """Answers a second."""
        return float(self.report["complete"] / self.report["seconds"])

    @property
    def lost(self) -> int:
        """Requests that did not end well."""
        return int(self.report["failed"] + self.report["unfinished"])


def build(name: str) -> Path:
    """Compile one of the C programs if it is older than its source; returns the program."""
    source, program = Path(__file__).with_name(f"{name}.c"), cache() / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
        except FileNotFoundError:
            sys.exit("The benchmarks need a C compiler, `cc` (Debian: apt install gcc libc6-dev).")
    return program


@contextmanager
def provider() -> Iterator[int]:
    """Run the model server; gives its port."""
    port = free_port()
    process = subprocess.Popen([str(build("provider")), str(port)])
    try:
        while ask(port, "GET", "/v1/models") != 200:
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


def start(target: Target, body: bytes, folder: Path, **options: float) -> subprocess.Popen[str]:
    """Begin a load; ``options`` are those of ``load.c`` by their letters."""
    file = folder / f"body-{len(body)}.json"
    file.write_bytes(body)
    flags = [text for letter, value in options.items() for text in (f"-{letter}", f"{value:g}")]
    command = [str(build("load")), *flags, str(target.port), target.path, str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(client: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the end of a load; returns its report."""
    output, _ = client.communicate()
    report: dict[str, Any] = json.loads(output)
    return report


def measure(target: Target, body: bytes, folder: Path, **options: float) -> Run:
    """Put a target under load and count the CPU of its processes."""
    before = machine.speed()
    used = machine.cpu(target.leaders)
    report = finish(start(target, body, folder, **options))
    time.sleep(0.2)  # what is written after the answer counts, too
    used = machine.cpu(target.leaders) - used
    return Run(report, used, (before + machine.speed()) / 2)
