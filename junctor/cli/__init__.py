"""The ``junctor`` command.

Exit codes: 0 done, 1 it failed (one line on standard error says why), 2 wrong usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line in ``sys.argv``; ends the process."""
    from junctor.cli.app import build

    build()(prog_name="junctor")
