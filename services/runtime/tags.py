"""Tags of a request, for records of usage and logs: one rule for the header of REST and the option of gRPC."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MOST: Final = 16
"""Tags of one request."""
LONGEST_VALUE: Final = 255
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-_./]{0,62}").fullmatch
"""As names of labels."""


def fit(tags: Iterable[tuple[str, str]]) -> bool:
    """Tell whether there are few enough, each with a name as labels have and a short value of visible ASCII."""
    pairs = list(tags)
    return len(pairs) <= MOST and all(_NAME(name) and _is_value(text) for name, text in pairs)


def _is_value(text: str) -> bool:
    return len(text) <= LONGEST_VALUE and text.isascii() and text.isprintable()
