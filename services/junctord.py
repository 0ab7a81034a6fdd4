"""The script ``junctord``: hands over to :mod:`services.main`, or says in one line what to install.

The base install has this script too, but not what the services need.
"""

from __future__ import annotations

import sys

from junctor.cli.failure import Failure
from junctor.cli.lazy import load


def main() -> None:
    """Run ``junctord``; exits 1 without the server packages."""
    try:
        run = load("junctord", "services.main:main")
    except Failure as failure:
        sys.exit(f"junctor: {failure}")
    run()
