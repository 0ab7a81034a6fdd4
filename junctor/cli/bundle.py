"""``junctor debug``: what somebody who helps needs to know, in one file and without secrets.

The processes take secrets out of what they tell (settings, tasks, calls). Of the edge's resources only what is listed
here goes in: a field that is new is left out until somebody has thought about it.
"""

from __future__ import annotations

import io
import json
import platform
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from junctor.cli.admin_port import SECONDS, Admin, AdminPort, TokenFile, ports
from junctor.cli.crud import examples, group
from junctor.cli.failure import Failure
from junctor.cli.session import Session, connected
from junctor.declare import execute
from junctor.declare.kinds import PROVIDER, VIRTUAL_MODEL, WORKSPACE, Kind
from junctor.errors import JunctorError
from junctor.request import Request
from junctor.resources import kinds

T = TypeVar("T")

app = group("Help when something is wrong.", "junctor debug bundle --admin http://127.0.0.1:9090")

_STATE = ("name", "workspace", "created_at", "updated_at", "resource_version")
_TOLD: Mapping[Kind, tuple[str, ...]] = {
    PROVIDER: (
        *_STATE,
        *("status", "status_message", "admin_state", "served_models", "last_attempt", "next_attempt"),
        *("max_concurrency", "timeouts", "api_base_path", "models_path"),
    ),
    VIRTUAL_MODEL: (*_STATE, "default_model_entity", "autoprovisioned", "routing"),
}
"""Fields that say how it is. Not among them: headers, bodies, URLs, TLS, which may hold what is nobody's business."""


@app.command(
    "bundle",
    epilog=examples(
        "junctor debug bundle --admin http://127.0.0.1:9090",
        "junctor debug bundle --admin http://router-0:9090 --admin http://router-1:9090 --out here.tar.gz",
    ),
)
@connected
def bundle(
    session: Session,
    admin: Admin = None,
    token_file: TokenFile = "",
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="The file [junctor-debug-TIME.tar.gz].")] = "",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="For each answer.")] = SECONDS,
) -> None:
    """Write what each process knows of itself to one file.

    Versions, settings, revisions, the last calls, tasks and metrics, as .tar.gz.

    Secrets are in none of it: no values, keys, tokens, passwords, headers, no content of requests and answers.
    Exit codes: 0 everything was reached, 1 something was not (manifest.json in the file says what).
    """
    missing: dict[str, str] = {}
    files = dict(_client(session))
    files |= _edge(session, missing, timeout)
    try:
        processes = ports(admin, token_file, seconds=timeout)
    except (Failure, typer.BadParameter) as error:
        missing["processes"], processes = str(error), []
    for number, process in enumerate(processes, 1):
        files |= _process(f"process-{number}", process, missing)
    files["manifest.json"] = _json({"made_at": _now(), "files": sorted(files), "not_reached": missing})
    path = Path(out or time.strftime("junctor-debug-%Y%m%d-%H%M%S.tar.gz", time.gmtime()))
    _write(path, files)
    typer.echo(str(path))
    for what, why in missing.items():
        typer.echo(f"not in it: {what}: {why}", err=True)
    if missing:
        raise typer.Exit(1)


def _client(session: Session) -> Iterator[tuple[str, str]]:
    about = {
        "junctor": version("junctor"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "base_url": session.client.settings.base_url.rpartition("@")[2],
        "workspace": session.workspace,
    }
    yield "client.json", _json(about)


def _edge(session: Session, missing: dict[str, str], seconds: float) -> dict[str, str]:
    def send(request: Request[T]) -> T:
        return session.client.send(replace(request, timeout=seconds))  # one that hangs is why this is asked

    try:
        found = {"edge/status.json": _json(send(kinds.status()))}
        workspaces = [str(each["name"]) for each in execute.every(send, WORKSPACE, "")]
        for kind, fields in _TOLD.items():
            rows = [
                {field: each.get(field) for field in fields}
                for workspace in workspaces
                for each in execute.every(send, kind, workspace)
            ]
            found[f"edge/{kind.name}.json"] = _json(rows)
    except JunctorError as error:
        missing["edge"] = " ".join(str(error).split())
        return {}
    return found


def _process(name: str, port: AdminPort, missing: dict[str, str]) -> dict[str, str]:
    try:
        told = port.debug("bundle")
        found = {f"{name}/ready.json": port.text("/health/ready"), f"{name}/metrics.txt": port.text("/metrics")}
    except Failure as failure:
        missing[f"{name} ({port.url})"] = str(failure)
        return {}
    for process, answers in told.items():
        if not isinstance(answers, dict):
            missing[f"{name}/{process}"] = "it ended before it answered"
            continue
        for question, answer in answers.items():
            found[f"{name}/{process}/{question}.json"] = _json(answer)
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _write(path: Path, files: Mapping[str, str]) -> None:
    """Write the archive, for this user alone."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name in sorted(files):
            data = files[name].encode()
            member = tarfile.TarInfo(f"junctor-debug/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    try:
        path.touch(mode=0o600)
        path.write_bytes(written.getvalue())
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
