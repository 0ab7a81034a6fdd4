"""Measures junctor, nginx and Envoy in one run, and prints Markdown tables: ``make bench``.

    python -m benchmarks.inference [--quick] [--seconds 4] [--only nginx,junctor]

About six minutes; with ``--quick`` three. Needs Linux and a C compiler; nginx and Envoy are left out, said aloud,
where they cannot be had. Provider and load client are C programs on the same cores, so requests a second say little:
CPU time of all processes of the target is the figure to compare, best as its ratio to nginx.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.inference import machine, tables, targets
from benchmarks.inference.load import provider
from benchmarks.inference.sections import Figures, Lengths, measure, rates

_TARGETS: dict[str, Callable[[Path, int], targets.Target | None]] = {
    "direct": lambda folder, port: targets.direct(port),
    "nginx": targets.nginx,
    "envoy": targets.envoy,
    "junctor": targets.junctor,
    "five": targets.junctor_apart,
}


def main() -> None:
    """Run the whole of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the time, coarser figures")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each timed part (default 4)")
    parser.add_argument("--only", default=",".join([*_TARGETS, "workers"]), help="of: %(default)s")
    options = parser.parse_args()
    only = options.only.split(",")
    lengths = Lengths(1.0, 1, 200, 400) if options.quick else Lengths(options.seconds)
    print(
        f"\n{datetime.now(UTC):%d %B %Y %H:%M} UTC, load average {machine.load():.1f}, speed {machine.speed(0.5):.2f}\n"
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, provider() as port:
        found: list[Figures] = []
        for name, make in _TARGETS.items():
            target = make(Path(scratch, name), port) if name in only else None
            if target is not None:
                print(f"{target.name} …", file=sys.stderr)
                with targets.running(target, Path(scratch, name)):
                    found.append(measure(target, Path(scratch, name), lengths))
        if found:
            print(tables.requests(found), tables.streams(found), tables.rest(found), sep="\n")
        if "workers" in only:
            print(tables.workers(rates(Path(scratch), port, lengths)))


if __name__ == "__main__":
    main()
