"""A steady load: what grows while it lasts, and what is left when it is over."""

from __future__ import annotations

import http.client
import socket
import statistics
import time
from pathlib import Path

from benchmarks.inference import machine
from benchmarks.inference.load import finish, start
from benchmarks.inference.targets import Target


def connections(leaders: list[int], port: int) -> int:
    """How many connections a group of processes has open to a port of loopback."""
    inodes = set()
    for pid in machine.processes(leaders):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue  # closed meanwhile
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    peer = f"{port:04X}"
    return sum(row[2].endswith(f":{peer}") and f"socket:[{row[9]}]" in inodes for row in rows)


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB a minute, by least squares over (seconds, MiB)."""
    return statistics.linear_regression(*zip(*samples, strict=True)).slope * 60


def steady(target: Target, folder: Path, provider: int, seconds: float) -> list[str]:
    """500 requests a second and 100 streams for a while; returns lines of a report."""
    requests = start(target, target.request(), folder, c=64, r=500, d=seconds)
    stream = target.request(stream=True, events=50, delay_us=100_000)
    streams = start(target, stream, folder, c=100, d=seconds - 6, u=2)
    warm, samples, began = min(20.0, seconds / 3), [], time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        if passed > warm:
            samples.append((passed, machine.resident(target.leaders)))
        time.sleep(0.5)
    lines = []
    for name, client in (("requests", requests), ("streams", streams)):
        report = finish(client)
        lost = report["failed"] + report["unfinished"]
        late = f"p99 {report['latency_us' if name == 'requests' else 'ttft_us']['p99'] / 1000:.1f} ms"
        lines.append(f"| {name} of {seconds:.0f} s | {report['complete']:,} complete, {lost} lost, {late} |")
    grown = f"{samples[0][1]:.0f} to {samples[-1][1]:.0f} MiB"
    return [*lines, f"| RSS after {warm:.0f} s | {grown}, slope {slope(samples):+.2f} MiB/min |"]


def slow_reader(target: Target, folder: Path, size: int) -> list[str]:
    """A stream of ``size`` bytes to a caller that reads 4 MiB and then nothing for five seconds."""
    event = 190
    body = target.request(stream=True, events=size // event)
    before = peak = machine.resident(target.leaders)
    with socket.create_connection(("127.0.0.1", target.port)) as caller:
        head = f"POST {target.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        caller.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        taken = 0
        while taken < 4 * 2**20:
            taken += len(caller.recv(65536))
        for _ in range(20):
            time.sleep(0.25)
            peak = max(peak, machine.resident(target.leaders))
    return [f"| slow reader of {size / 1e6:.0f} MB | RSS {before:.0f} MiB, at most {peak - before:+.1f} |"]


def bomb(target: Target, times: int) -> list[str]:
    """Read an answer that swells a thousandfold, ``times`` over, from a provider that says it is gzip."""
    before = peak = machine.resident(target.leaders)
    read = 0
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
        connection.request("POST", target.path, target.request(), {"content-type": "application/json"})
        answer = connection.getresponse()
        while part := answer.read(1 << 20):
            read += len(part)
            peak = max(peak, machine.resident(target.leaders))
        connection.close()
    return [f"| gzip bomb, {read / 1e6:.0f} MB out | RSS {before:.0f} MiB, at most {peak - before:+.1f} |"]
