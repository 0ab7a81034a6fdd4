"""Writes the figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.inference.load import Run
from benchmarks.inference.sections import Figures, mean_rate

_REFERENCE = "nginx"


def requests(found: Sequence[Figures]) -> str:
    """CPU and latency of requests."""
    nginx = _of(found, _REFERENCE)
    straight = _of(found, "no gateway")
    rows = [
        "| 32 connections, 330-byte requests | CPU µs a request | at the aims' speed | to nginx | requests/s "
        "| p50 / p99 ms | added alone p50 / p99 ms | lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        run = one.median
        cpu, ratio = _cpu(run.per_request, run, None if nginx is None else nginx.median, "per_request", one)
        added = "–" if straight is None or one is straight else _added(one, straight)
        lost = sum(run.lost for run in one.busy)
        rows.append(
            f"| {one.target.name} | {cpu} | {ratio} | {run.rate:,.0f} | {_pair(run, 'latency_us')} | {added} | {lost} |"
        )
    return "\n".join(rows) + "\n"


def streams(found: Sequence[Figures]) -> str:
    """CPU of events and what streams wait for."""
    nginx = _of(found, _REFERENCE)
    rows = [
        "| streams, an event each every 100 ms | CPU µs an event | at the aims' speed | to nginx "
        "| first event p50 / p99 ms | complete | all at once, 5 s each: complete | first event p50 / p99 ms "
        "| longest s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        assert one.held is not None
        assert one.paced is not None
        held, paced = one.held, one.paced
        cpu, ratio = _cpu(held.per_event, held, None if nginx is None else nginx.held, "per_event", one)
        whole = f"{held.report['complete']} of {held.report['started']}"
        all_at_once = f"{paced.report['complete']} of {paced.report['started']}"
        longest = paced.report["latency_us"]["max"] / 1e6
        rows.append(
            f"| {one.target.name} | {cpu} | {ratio} | {_pair(held, 'ttft_us')} | {whole} | {all_at_once} "
            f"| {_pair(paced, 'ttft_us')} | {longest:.2f} |"
        )
    return "\n".join(rows) + "\n"


def rest(found: Sequence[Figures]) -> str:
    """Start, memory, large bodies."""
    rows = [
        "| | start to first answer s | RSS idle MiB | RSS loaded MiB | 5 MB requests/s | CPU ms each | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        assert one.large is not None
        own = (
            f"{one.target.start_seconds:.2f} | {one.idle_mib:.0f} | {one.loaded_mib:.0f}"
            if one.target.commands
            else "– | – | –"
        )
        each = f"{one.large.per_request / 1000:.1f}" if one.target.commands else "–"
        rows.append(f"| {one.target.name} | {own} | {one.large.rate:.0f} | {each} | {one.large.lost} |")
    return "\n".join(rows) + "\n"


def workers(found: dict[str, list[Run]]) -> str:
    """Requests a second, by workers."""
    first = next(iter(found.values()))
    rows = ["| 32 connections | requests/s | to one | CPU µs a request | cores used |", "|---|---|---|---|---|"]
    for name, runs in found.items():
        rate, cpu = mean_rate(runs), sum(run.per_request for run in runs) / len(runs)
        cores = sum(run.cpu / run.report["seconds"] for run in runs) / len(runs)
        rows.append(f"| {name} | {rate:,.0f} | {rate / mean_rate(first):.2f} | {cpu:.0f} | {cores:.2f} |")
    return "\n".join(rows) + "\n"


def _of(found: Sequence[Figures], name: str) -> Figures | None:
    return next((one for one in found if one.target.name == name), None)


def _cpu(value: float, run: Run, nginx: Run | None, what: str, one: Figures) -> tuple[str, str]:
    if not one.target.commands:
        return "– | –", "–"
    ratio = "–" if nginx is None else f"{value * run.speed / (getattr(nginx, what) * nginx.speed):.1f}"
    return f"{value:.1f} | {value * run.speed:.1f}", ratio


def _pair(run: Run, what: str) -> str:
    return " / ".join(f"{run.report[what][key] / 1000:.1f}" for key in ("p50", "p99"))


def _added(one: Figures, straight: Figures) -> str:
    assert one.alone is not None
    assert straight.alone is not None
    ours, theirs = one.alone.report["latency_us"], straight.alone.report["latency_us"]
    return " / ".join(f"{(ours[key] - theirs[key]) / 1000:.2f}" for key in ("p50", "p99"))
