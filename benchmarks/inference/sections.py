"""The parts of the benchmark: what load each puts on a target, and which figures it gives."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.inference import machine, targets
from benchmarks.inference.load import Run
from benchmarks.inference.load import measure as under_load
from benchmarks.inference.targets import Target

_LARGE = 5_000_000
_PAUSE_US = 100_000


@dataclass(frozen=True)
class Lengths:
    """How long and how much is measured."""

    seconds: float = 4.0
    repeats: int = 3
    """Of the request figures: the median counts."""
    held: int = 500
    """Streams open at once while events are counted."""
    paced: int = 1000
    """Streams of five seconds, all at once."""


@dataclass
class Figures:
    """What was measured of one target."""

    target: Target
    idle_mib: float = 0.0
    alone: Run | None = None
    """One connection."""
    busy: list[Run] = field(default_factory=list)
    """32 connections."""
    held: Run | None = None
    paced: Run | None = None
    large: Run | None = None
    loaded_mib: float = 0.0
    """While the paced streams were open, or just after them."""

    @property
    def median(self) -> Run:
        """The run of the median CPU per request."""
        return sorted(self.busy, key=lambda run: run.per_request * run.speed)[len(self.busy) // 2]


def measure(target: Target, folder: Path, lengths: Lengths) -> Figures:
    """Take every figure of a running target."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = Figures(target, machine.resident(target.leaders))
    seconds = lengths.seconds
    under_load(target, target.request(), folder, c=4, d=min(2.0, seconds))  # warm
    figures.alone = under_load(target, target.request(), folder, c=1, d=seconds)
    figures.busy = [under_load(target, target.request(), folder, c=32, d=seconds) for _ in range(lengths.repeats)]
    held = target.request(stream=True, events=100, delay_us=_PAUSE_US)
    figures.held = under_load(target, held, folder, c=lengths.held, n=lengths.held, u=2, d=4)
    paced = target.request(stream=True, events=51, delay_us=_PAUSE_US)
    figures.paced = under_load(target, paced, folder, c=lengths.paced, n=lengths.paced, u=1, d=4)
    figures.loaded_mib = machine.resident(target.leaders)
    large = target.request().replace(b"Explain", b"x" * _LARGE, 1)
    figures.large = under_load(target, large, folder, c=2, d=seconds)
    return figures


def rates(folder: Path, provider: int, lengths: Lengths) -> dict[str, list[Run]]:
    """Requests a second of junctor with one worker and with two, taken in turns."""
    found: dict[str, list[Run]] = {}
    for turn in range(2):
        for workers in (1, 2):
            place = folder / f"workers-{workers}-{turn}"
            target = targets.junctor_workers(place, provider, workers)
            with targets.running(target, place):
                under_load(target, target.request(), place, c=32, d=1)
                runs = [
                    under_load(target, target.request(), place, c=32, d=lengths.seconds) for _ in range(lengths.repeats)
                ]
            found.setdefault(target.name, []).append(sorted(runs, key=lambda run: run.rate)[len(runs) // 2])
    return found


def mean_rate(runs: list[Run]) -> float:
    """Answers a second, over the turns."""
    return statistics.fmean(run.rate for run in runs)
