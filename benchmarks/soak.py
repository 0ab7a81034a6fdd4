"""A soak of junctor in real processes: what grows, what is left behind, who has to wait. Prints Markdown.

    python -m benchmarks.soak [--seconds 60] [--cancels 10000] [--only steady,reader,bomb,hostile,cancels]

About eight minutes. ``steady``: 500 requests a second and 100 streams. ``reader``: a stream of 200 MB that is not read.
``bomb``: gzip answers that swell to a gigabyte. ``hostile``: bodies of 64 MB beside a caller with small ones.
``cancels``: calls abandoned in each phase, with all of junctor in one process and in five.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.inference import machine, targets
from benchmarks.inference.load import provider as model_server
from benchmarks.soaking.cancels import cancels
from benchmarks.soaking.hostile import hostile
from benchmarks.soaking.provider import Provider
from benchmarks.soaking.steady import bomb, connections, slow_reader, steady

_PARTS = "steady,reader,bomb,hostile,cancels"
_IDLE = 120.0
"""Seconds within which connections that are kept for later calls have to be closed."""


@contextmanager
def junctor(name: str, port: int, *, apart: bool = False) -> Iterator[tuple[targets.Target, Path]]:
    """Run a junctor with files of its own."""
    with tempfile.TemporaryDirectory(prefix=f"soak-{name}-") as scratch:
        folder = Path(scratch)
        target = (targets.junctor_apart if apart else targets.junctor)(folder, port)
        with targets.running(target, folder):
            yield target, folder


def _open(target: targets.Target, provider: int) -> tuple[int, int]:
    """Files that are open, connections to the provider among them."""
    return machine.descriptors(target.leaders), connections(target.leaders, provider)


def loads(seconds: float, only: list[str]) -> None:
    """Run the parts with a provider that answers."""
    with model_server() as port, junctor("loads", port) as (target, folder):
        before = _open(target, port)
        print("| part | what came of it |\n|---|---|")
        if "steady" in only:
            print("\n".join(steady(target, folder, port, seconds)))
        if "reader" in only:
            print("\n".join(slow_reader(target, folder, 200_000_000)))
        last = _open(target, port)
        end = time.monotonic() + _IDLE
        while (after := _open(target, port)) > before and time.monotonic() < end:
            time.sleep(1)
        for index, what in enumerate(("open files", "connections to the provider")):
            print(f"| {what} | {before[index]}, {last[index]} at the end, then {after[index]} |")
    if "bomb" in only:
        with Provider() as stuck, junctor("bomb", stuck.port) as (target, folder):
            stuck.mode = "bomb"
            print("\n".join(bomb(target, 5)))
    if "hostile" in only:
        with model_server() as port, junctor("hostile", port) as (target, _):
            print("\n| body of 64 MB | status | s | longest wait of a small call s | failed |\n|---|---|---|---|---|")
            print("\n".join(hostile(target)))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the steady load (default 60)")
    parser.add_argument("--cancels", type=int, default=10_000, help="in each phase (default 10000)")
    parser.add_argument("--only", default=_PARTS, help="of: %(default)s")
    options = parser.parse_args()
    only = options.only.split(",")
    print(f"\n{datetime.now(UTC):%d %B %Y %H:%M} UTC, load average {machine.load():.1f}, speed {machine.speed():.2f}\n")
    if set(only) - {"cancels"}:
        loads(options.seconds, only)
    for apart in (False, True) if "cancels" in only else ():
        print(f"\n| {'five processes' if apart else 'one process'} | calls | ms each | files | connections | MiB |")
        print("|---|---|---|---|---|---|")
        with Provider() as stuck, junctor("cancels", stuck.port, apart=apart) as (target, _):
            for line in cancels(target, stuck, options.cancels):
                print(line, flush=True)


if __name__ == "__main__":
    main()
