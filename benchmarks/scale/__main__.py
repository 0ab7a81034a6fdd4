"""Scale-out in figures, for docs/scale.md:

    python -m benchmarks.scale [--seconds 4] [--part routers] [--part workers] [--part kills]

Real processes and a PostgreSQL of its own, all on this machine: what is compared is CPU per request, as the machine
has not the cores that three routers could use. Needs the development dependencies and a C compiler.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks.inference import machine
from benchmarks.scale.growth import routers, workers
from benchmarks.scale.kills import kills
from tests.postgres import running

PARTS = {"routers": routers, "workers": workers, "kills": kills}


async def run(chosen: list[str], seconds: float) -> None:
    """Measure the parts one after the other, and print each as it ends."""
    with running() as postgres, tempfile.TemporaryDirectory(prefix="junctor-scale-") as made:
        for name in chosen:
            with postgres.database() as url:
                print(f"load average {machine.load():.1f}, speed {machine.speed():.2f} of the aims' machine\n")
                print(await PARTS[name](Path(made) / name, url, seconds), flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="Length of each load.")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="May be given several times.")
    given = parser.parse_args()
    asyncio.run(run(given.part or list(PARTS), given.seconds))


main()
