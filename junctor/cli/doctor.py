"""``junctor doctor``: looks at everything that can be wrong between a caller and an answer, and says what to do."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import typer

from junctor import config
from junctor.cli import advice, output
from junctor.cli.options import Output
from junctor.cli.output import Column
from junctor.cli.session import Session, grpc_connected
from junctor.errors import InternalError, JunctorError, MalformedRequest, NotSupported, ResourceNotFound
from junctor.records import Provider

_COLUMNS = (Column("CHECK", "check"), Column("RESULT", "result"), Column("FOUND", "found"), Column("NEXT", "next"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: ``ok``, ``warn`` or ``fail``, what was found, and the command to run next."""

    check: str
    result: str
    found: str
    next: str = ""


@grpc_connected
def command(session: Session) -> None:
    """Say what is wrong and what to run next; exit code 1 if something does not work.

    \b
    Examples:
      junctor doctor
      junctor doctor --base-url https://junctor.example.com -o json
    """
    findings = list(_checks(session))
    if output.chosen(session.output) is Output.TABLE:
        for finding in findings:
            _tell(finding)
    else:
        output.show_all([asdict(finding) for finding in findings], _COLUMNS, session.output)
    if any(finding.result == "fail" for finding in findings):
        raise typer.Exit(1)


def _tell(finding: Finding) -> None:
    """Print a check on a line and the next command below it, whole, so that it can be copied."""
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.result]
    mark = typer.style(f"{finding.result:4}", fg=colour if output.coloured() else None)
    typer.echo(f"{mark}  {finding.check}: {finding.found}", color=output.coloured())
    if finding.next:
        typer.echo(f"      → {finding.next}")


def _checks(session: Session) -> Iterator[Finding]:
    yield _file()
    reached = _server(session)
    yield reached
    if reached.result == "fail":
        return
    yield _workspace(session)
    providers = _providers(session)
    yield from providers or [
        Finding("providers", "warn", "none", "junctor inference providers create NAME --host-url URL")
    ]
    yield _models(session)
    yield _grpc(session)


def _file() -> Finding:
    file = config.path()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return Finding("config file", "ok", "none: defaults and environment")
    if mode & 0o077:
        return Finding("config file", "warn", f"others can read {file}", f"chmod 600 {file}")
    return Finding("config file", "ok", str(file))


def _server(session: Session) -> Finding:
    where = session.client.settings.base_url
    try:
        found = session.client.status()
        session.client.models.wait_for_gateway(timeout=0)
    except JunctorError as error:
        return _unreached(where, error)
    down = ", ".join((found.get("services") or {}).get("not_ready") or ())
    if down:
        return Finding("server", "warn", f"{where}: not ready: {down}", "look at the log of these services")
    return Finding("server", "ok", where)


def _unreached(where: str, error: JunctorError) -> Finding:
    """Tell a server that is not junctor from one that fails."""
    told = _failed("server", error)
    if error.reason == "STREAM_BROKEN":
        told = Finding("server", "fail", f"{told.found}: is it junctor's HTTP port, not its gRPC port?")
    elif isinstance(error, InternalError | ResourceNotFound | MalformedRequest | NotSupported):
        told = Finding("server", "fail", f"what answers at {where} is not junctor ({told.found})")
    return told if told.next else Finding(told.check, told.result, told.found, "junctor config view")


def _workspace(session: Session) -> Finding:
    name = session.workspace
    try:
        session.client.workspaces.get(name)
    except JunctorError as error:
        told = _failed("workspace", error)
        missing = error.reason == "RESOURCE_NOT_FOUND"
        return Finding(told.check, told.result, told.found, f"junctor workspaces create {name}") if missing else told
    return Finding("workspace", "ok", name)


def _providers(session: Session) -> list[Finding]:
    try:
        return [_provider(provider) for provider in session.client.inference.providers.list()]
    except JunctorError as error:
        return [_failed("providers", error)]


def _provider(provider: Provider) -> Finding:
    check = f"provider {provider.name}"
    if provider.admin_state != "ACTIVE":
        return Finding(check, "warn", provider.admin_state, f"junctor inference providers enable {provider.name}")
    if provider.status != "READY":
        found = f"{provider.status}: {provider.status_message}" if provider.status_message else provider.status
        return Finding(check, "fail", found, f"junctor inference providers get {provider.name}")
    if not provider.served_models:
        return Finding(check, "warn", provider.status_message or "serves no model by name")
    return Finding(check, "ok", f"{len(provider.served_models)} models")


def _models(session: Session) -> Finding:
    try:
        served = session.client.inference.models.list()
    except JunctorError as error:
        return _failed("models", error)
    if not served:
        return Finding("models", "fail", "nothing can be called by name", "junctor inference providers list")
    return Finding("models", "ok", f"{len(served)}, such as {served[0].id}", f"junctor chat {served[0].id} Hello")


def _grpc(session: Session) -> Finding:
    from junctor.v1 import inference_router_pb2 as pb

    target = session.client.settings.grpc_target
    try:
        session.client.grpc.explain_route(pb.ExplainRouteRequest(), timeout=2.0)
    except JunctorError as error:
        if error.reason == "PEER_UNAVAILABLE":
            return Finding("gRPC", "warn", str(error), "name its address with --grpc-target HOST:PORT")
    return Finding("gRPC", "ok", target)


def _failed(check: str, error: JunctorError) -> Finding:
    said, _, following = advice.line(error, "junctor doctor").partition("; ")
    return Finding(check, "fail", said, following)
