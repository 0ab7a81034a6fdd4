"""``junctor inference replay``: decides a call again from its receipt. Reads no settings and calls nobody."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from junctor.errors import InvalidField
from services.inference_router.receipts import unpack
from services.inference_router.replaying import Replay, replay


def command(
    receipt: Annotated[str, typer.Argument(help="The receipt, or the line it came in; - for standard input.")],
) -> None:
    """Decide a call again from its receipt, without a server, and say whether it comes to the same.

    Exit code 1 if it does not, 2 if the text is no receipt.

    Examples:

      curl -sD- … -H 'x-junctor-receipt: 1' | grep -i ^x-junctor-receipt | junctor inference replay -

      junctor inference replay eNqVkE1Lw0…
    """
    text = sys.stdin.read() if receipt == "-" else receipt
    try:
        read = unpack(text)
        again = replay(read)
    except InvalidField as error:
        typer.echo(f"junctor: {error.message}", err=True)
        raise typer.Exit(2) from None
    said = read.decision
    revisions = ", ".join(f"{store} {revision}" for store, revision in sorted(said.revisions.items()))
    typer.echo(f"call      {read.request_id}")
    typer.echo(f"decided   {said.policy} for {said.virtual_model or 'a provider'} by junctor {read.junctor_version}")
    typer.echo(f"revisions {revisions or '-'}")
    for line in _lines(again, {each.provider: each.detail for each in said.candidates}):
        typer.echo(line)
    for attempt in read.attempts:
        typer.echo(f"tried     {attempt.provider}: {attempt.failure or attempt.status}")
    if not again.same:
        typer.echo("junctor: the receipt says another order, or another course, than this decision", err=True)
        raise typer.Exit(1)
    typer.echo("replayed  the same decision")


def _lines(again: Replay, details: dict[str, str]) -> list[str]:
    return [
        f"{place:>7}.  {provider} {model or '-'}: {details.get(provider, '')}"
        for place, (provider, model) in enumerate(again.order, start=1)
    ]
