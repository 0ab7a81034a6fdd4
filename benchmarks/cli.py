"""How long ``junctor --help`` takes, wall and CPU: what a user waits for at every command. Aim: below 0.4 s.

python benchmarks/cli.py [--times 20] [arguments of junctor …]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


def once(command: list[str]) -> tuple[float, float]:
    """Run a command; returns seconds passed and CPU seconds used."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    passed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return passed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print medians and the range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    options, arguments = parser.parse_known_args()
    command = [str(Path(sys.executable).with_name("junctor")), *(arguments or ["--help"])]
    once(command)  # compiles what has to be
    wall, cpu = zip(*(once(command) for _ in range(options.times)), strict=True)
    print(f"{' '.join(command[1:])}: median of {options.times}, load average {os.getloadavg()[0]:.1f}")
    for name, seconds in (("wall", wall), ("CPU", cpu)):
        print(f"  {name}: {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})")


if __name__ == "__main__":
    main()
