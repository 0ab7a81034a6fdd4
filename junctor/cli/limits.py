"""Flags of limits: what a key, or all callers of a workspace together, may use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import typer

_MICROS = 1_000_000

Rpm = Annotated[int | None, typer.Option("--rpm", min=1, help="Requests within a minute.")]
Tpm = Annotated[int | None, typer.Option("--tpm", min=1, help="Tokens within a minute.")]
Concurrency = Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests at the same time.")]
Budget = Annotated[
    str, typer.Option("--budget", metavar="USD/PERIOD", help="Cost: 50/month, 2.50/day.", show_default=False)
]


def budget_of(text: str) -> dict[str, Any]:
    """Read ``50/month`` as the API has it. Raises a usage error."""
    found = re.fullmatch(r"\$?(\d{1,9}(?:\.\d{1,6})?)/(day|month)", text.strip())
    if found is None or not (micros := int(Decimal(found[1]) * _MICROS)):
        raise typer.BadParameter("must be US dollars for a day or a month, as 50/month", param_hint="--budget")
    return {"micros": micros, "period": found[2]}


def given(rpm: int | None, tpm: int | None, concurrency: int | None, budget: str) -> Mapping[str, Any]:
    """Return the limits that were given as the API has them."""
    limits: dict[str, Any] = {"requests_per_minute": rpm, "tokens_per_minute": tpm, "concurrency": concurrency}
    limits["budget"] = budget_of(budget) if budget else None
    return {name: limit for name, limit in limits.items() if limit is not None}
