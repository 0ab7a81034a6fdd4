"""Metrics in Prometheus's text format: families made by callables that are asked at scrape time."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from services.runtime.interceptors import CallCounters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


_NONE: Mapping[str, str] = MappingProxyType({})


class Sample(msgspec.Struct, frozen=True):
    """One number of a family; ``suffix`` is ``_bucket``, ``_sum`` or ``_count`` for histograms.

    A struct, as a scrape makes tens of thousands of them.
    """

    value: float
    labels: Mapping[str, str] = _NONE
    """Those with an empty value are left out."""
    suffix: str = ""
    upper: str = ""
    """The label ``le`` of a bucket."""


class Family(msgspec.Struct, frozen=True):
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
        labels, text = _NONE, ""
        for sample in family.samples:
            if sample.labels is not labels:  # the lines of one histogram share them
                labels, text = sample.labels, _labels(sample.labels)
            shown = text
            if sample.upper:
                shown = f'{text},le="{sample.upper}"' if text else f'le="{sample.upper}"'
            shown = f"{{{shown}}}" if shown else ""
            lines.append(f"{family.name}{sample.suffix}{shown} {number(sample.value)}")
    return "\n".join(lines) + "\n"


def _help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join([f'{k}="{_help(v).replace(chr(34), chr(92) + chr(34))}"' for k, v in labels.items() if v])


def number(value: float) -> str:
    """Write a number as the text format has it."""
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() else repr(value)


def gauge(name: str, text: str, value: float) -> Family:
    """A gauge without labels."""
    return Family(name, "gauge", text, (Sample(value),))


def process_metrics(started: float) -> Collector:
    """Measure the process; ``started`` is its ``time.time()`` at start. Names as Prometheus clients use them."""

    def collect() -> Iterable[Family]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield gauge("process_start_time_seconds", "Start of the process, Unix time.", started)
        yield gauge("process_uptime_seconds", "Seconds since the start.", time.time() - started)
        yield gauge("process_max_fds", "Most file descriptors it may have open.", soft)
        cpu = (Sample(usage.ru_utime + usage.ru_stime),)
        yield Family("process_cpu_seconds_total", "counter", "User and system time.", cpu)
        if (count := _open_fds()) is not None:
            yield gauge("process_open_fds", "Open file descriptors.", count)
        yield gauge("process_resident_memory_bytes", "Resident memory.", _resident_bytes(usage.ru_maxrss))

    return collect


def call_metrics(counters: CallCounters) -> Collector:
    """Report the gRPC calls served."""

    def collect() -> Iterable[Family]:
        ended = tuple(
            Sample(count, {"method": method, "code": code}) for (method, code), count in sorted(counters.ended.items())
        )
        yield Family("junctor_grpc_calls_total", "counter", "gRPC calls that ended, by method and code.", ended)
        yield gauge("junctor_grpc_calls_running", "gRPC calls in progress, Watches included.", counters.running)

    return collect


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
