"""Metrics in Prometheus's text format: families made by callables that are asked at scrape time."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.runtime.interceptors import CallCounters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of a family; ``suffix`` is ``_bucket``, ``_sum`` or ``_count`` for histograms."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: name, kind (``counter``, ``gauge``, ``histogram``), help, samples."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


Collector = Callable[[], Iterable[Family]]
"""Asked at every scrape; must not block."""


def render(families: Iterable[Family]) -> str:
    """Write the families as text."""
    lines: list[str] = []
    for family in families:
        lines += [f"# HELP {family.name} {_help(family.help)}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{s.suffix}{_labels(s.labels)} {_number(s.value)}" for s in family.samples]
    return "\n".join(lines) + "\n"


def _help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{k}="{_help(v).replace(chr(34), chr(92) + chr(34))}"' for k, v in labels.items()) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def process_metrics(started: float) -> Collector:
    """Measure the process; ``started`` is its ``time.time()`` at start. Names as Prometheus clients use them."""

    def collect() -> Iterable[Family]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield _gauge("process_start_time_seconds", "Start of the process, Unix time.", started)
        yield _gauge("process_uptime_seconds", "Seconds since the start.", time.time() - started)
        yield _gauge("process_max_fds", "Most file descriptors it may have open.", soft)
        cpu = (Sample(usage.ru_utime + usage.ru_stime),)
        yield Family("process_cpu_seconds_total", "counter", "User and system time.", cpu)
        if (count := _open_fds()) is not None:
            yield _gauge("process_open_fds", "Open file descriptors.", count)
        yield _gauge("process_resident_memory_bytes", "Resident memory.", _resident_bytes(usage.ru_maxrss))

    return collect


def call_metrics(counters: CallCounters) -> Collector:
    """Report the gRPC calls served."""

    def collect() -> Iterable[Family]:
        ended = tuple(
            Sample(count, {"method": method, "code": code}) for (method, code), count in sorted(counters.ended.items())
        )
        yield Family("junctor_grpc_calls_total", "counter", "gRPC calls that ended, by method and code.", ended)
        yield _gauge("junctor_grpc_calls_running", "gRPC calls in progress, Watches included.", counters.running)

    return collect


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(name, "gauge", text, (Sample(value),))


def _open_fds() -> int | None:
    for folder in ("/proc/self/fd", "/dev/fd"):  # Linux, macOS
        try:
            return len(os.listdir(folder))
        except OSError:
            continue
    return None


def _resident_bytes(peak: int) -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        # No /proc on macOS, whose getrusage counts bytes: the peak is the nearest there is.
        return peak if sys.platform == "darwin" else peak * 1024
