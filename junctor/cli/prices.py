"""``junctor prices``: what a million tokens of a model cost, from a time on."""

from __future__ import annotations

import functools
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from junctor.cli.crud import examples, group
from junctor.cli.failure import Failure
from junctor.cli.inputs import read_input
from junctor.cli.listing import Columns, chosen_columns
from junctor.cli.options import Output
from junctor.cli.output import Column, Row, day
from junctor.cli.session import Session, connected
from junctor.cli.usage import dollars
from junctor.declare.problems import BadFiles
from junctor.declare.reading import read

app = group(
    "What a million tokens of a model cost.",
    "junctor prices apply -f prices.yaml",
    "junctor prices set gpt-4o --input 2.50 --generated 10",
    "junctor prices list",
)

_Output = Annotated[Output | None, typer.Option("-o", "--output", help="Unused: what was done is told line by line.")]
"""Without ``-f``, which is a file here."""
_MICROS = 1_000_000
_NAMES = {"input": "input_micros", "output": "output_micros", "cached_input": "cached_input_micros"}
_FIELDS = ("model", "provider", "valid_from", *_NAMES.values())


def micros(amount: object) -> int:
    """Read an amount in dollars (``2.50``) exactly. Raises ValueError."""
    try:
        value = Decimal(str(amount)) * _MICROS
    except InvalidOperation:
        raise ValueError(f"'{amount}' is no amount in dollars") from None
    if not value.is_finite() or value != value.to_integral_value() or value < 0:
        raise ValueError(f"'{amount}' is no amount in dollars with at most six decimals")
    return int(value)


def _money(key: str) -> Any:
    def shown(row: Row) -> str:
        value = row.get(key)
        return "" if value is None else dollars(value)

    return shown


_COLUMNS = (
    Column("MODEL", "model"),
    Column("PROVIDER", "provider"),
    Column("INPUT", _money("input_micros")),
    Column("CACHED", _money("cached_input_micros")),
    Column("OUTPUT", _money("output_micros")),
    Column("FROM", day("valid_from")),
    Column("VERSION", "version"),
    Column("SET BY", lambda row: row.get("created_by") or "-"),
)


@app.command("list", epilog=examples("junctor prices list", "junctor prices list --all -o json"))
@connected
def list_(
    session: Session,
    every: Annotated[bool, typer.Option("--all", help="Also those that others have replaced.")] = False,
    columns: Columns = "",
) -> None:
    """List prices in dollars for a million tokens."""
    rows = [price.raw for price in session.client.prices.list(all_versions=every)]
    session.show_all(rows, chosen_columns(columns, _COLUMNS, rows), whole={"data": rows})


@app.command(
    "set",
    epilog=examples(
        "junctor prices set gpt-4o --input 2.50 --generated 10 --cached-input 1.25",
        "junctor prices set 'llama-*' --provider lab/vllm --input 0 --generated 0 --from 2030-01-01",
    ),
)
@connected
def set_(  # noqa: PLR0913, PLR0917 - one parameter per flag
    session: Session,
    model: Annotated[str, typer.Argument(help="As the provider knows it; * and ? as in file names.")],
    input_: Annotated[str, typer.Option("--input", help="Dollars for a million tokens in.")],
    generated: Annotated[str, typer.Option("--generated", help="Dollars for a million tokens out.")],
    cached: Annotated[str, typer.Option("--cached-input", help="For cached tokens in.", show_default=False)] = "",
    provider: Annotated[str, typer.Option("--provider", help="workspace/name, or * for any.")] = "*",
    from_: Annotated[str, typer.Option("--from", help="When it begins; now.", show_default=False)] = "",
) -> None:
    """Set the price of a model from a time on. It takes the place of the one before and changes no past cost."""
    amounts = {"input": input_, "output": generated, **({"cached_input": cached} if cached else {})}
    try:
        amounts_of = {_NAMES[name]: micros(amount) for name, amount in amounts.items()}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    session.show(session.client.prices.set(model, provider=provider, valid_from=from_ or None, **amounts_of))


@app.command("apply", epilog=examples("junctor prices apply -f prices.yaml"))
@functools.partial(connected, output=_Output)
def apply(
    session: Session,
    file: Annotated[str, typer.Option("-f", "--file", help="YAML with a list 'prices'; - is stdin.")],
) -> None:
    """Set all prices of a file. What is there already stays as it is, so applying it again changes nothing.

    Each has model, input and output (dollars for a million tokens), and may have provider, cached_input, valid_from.
    """
    wanted = _read(file)
    before = {price.version for price in session.client.prices.list(all_versions=True)}
    for fields in wanted:
        price = session.client.prices.set(**fields)
        said = "unchanged" if price.version in before else f"version {price.version}"
        typer.echo(f"{price.model} at {price.provider}: {said}")


def _read(file: str) -> list[dict[str, Any]]:
    prices: list[object] = []
    try:
        sources = read(read_input(file), file)
    except BadFiles as bad:
        raise Failure(str(bad)) from None
    for source in sources:
        value = source.value
        if isinstance(value, dict) and "prices" in value:
            value = value["prices"]
        prices += value if isinstance(value, list) else [value]
    return [_price(file, index, each) for index, each in enumerate(prices)]


def _price(file: str, index: int, given: object) -> dict[str, Any]:
    where = f"{file}: prices[{index}]"
    if not isinstance(given, dict):
        raise Failure(f"{where} is no object")
    fields: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key)
        try:
            fields[_NAMES.get(name, name)] = micros(value) if name in _NAMES else value
        except ValueError as error:
            raise Failure(f"{where}.{name}: {error}") from None
    if unknown := sorted(set(fields) - set(_FIELDS), key=str):
        raise Failure(
            f"{where} has an unknown field '{unknown[0]}'; there are: model, provider, valid_from, {', '.join(_NAMES)}"
        )
    if missing := [name for name in ("model", "input_micros", "output_micros") if name not in fields]:
        raise Failure(f"{where} lacks {missing[0].removesuffix('_micros')}")
    if "valid_from" in fields:
        fields["valid_from"] = str(fields["valid_from"]).replace(" ", "T", 1)
    return fields
