"""The admin ports of junctor's processes as commands use them: plain HTTP, with the service token for ``/debug/``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from junctor.cli.failure import Failure

SECONDS = 15.0
"""For one answer: above the ten that a supervisor gives its workers."""

Admin = Annotated[
    list[str] | None,
    typer.Option(
        "--admin",
        metavar="URL",
        help="Admin port of a process, such as http://127.0.0.1:9090; repeatable [JUNCTOR_ADMIN_PORT here].",
        show_default=False,
    ),
]
TokenFile = Annotated[
    str,
    typer.Option(
        "--token-file",
        envvar="JUNCTOR_SERVICE_TOKEN_FILE",
        help="File with the service token [~/.config/junctor/service.token].",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class AdminPort:
    """One process's admin port. Calls raise Failure with the reason in one line."""

    url: str
    token: str
    seconds: float = SECONDS

    def debug(self, question: str, body: Any = None) -> dict[str, Any]:
        """Ask below ``/debug/``, or change it with a body; answers by the name of each process."""
        headers = {"authorization": f"Bearer {self.token}"}
        response = self._call("GET" if body is None else "PUT", f"/debug/{question}", headers=headers, json=body)
        if not response.is_success:
            raise Failure(f"{self.url}: {_detail(response)}")
        try:
            found: dict[str, Any] = response.json()
        except ValueError:
            raise Failure(f"what answers at {self.url} is no admin port of junctor's") from None
        return found

    def text(self, path: str) -> str:
        """Read a path that needs no token, whatever its status."""
        return self._call("GET", path).text

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        url = httpx.URL(self.url)
        here = url.host in ("127.0.0.1", "localhost", "::1")
        if arguments.get("json") is None:
            arguments.pop("json", None)
        try:
            with httpx.Client(timeout=self.seconds, trust_env=not here) as client:
                return client.request(method, f"{self.url.rstrip('/')}{path}", **arguments)
        except httpx.HTTPError as error:
            said = "no answer in time" if isinstance(error, httpx.TimeoutException) else "cannot connect"
            raise Failure(f"{self.url}: {said}; is --admin-port set there?") from None


def ports(urls: list[str] | None, token_file: str, *, seconds: float = SECONDS) -> list[AdminPort]:
    """Return the admin ports that a command is about, ``seconds`` for each answer of theirs.

    Raises Failure without the token, a usage error without any port.
    """
    port = os.environ.get("JUNCTOR_ADMIN_PORT", "")
    given = urls or ([f"http://127.0.0.1:{port}"] if port else [])
    if not given:
        raise typer.BadParameter("name at least one, such as http://127.0.0.1:9090", param_hint="--admin")
    for url in given:
        if not url.startswith(("http://", "https://")):
            raise typer.BadParameter(f"'{url}' is no http or https URL", param_hint="--admin")
    token = read_token(token_file)
    return [AdminPort(url, token, seconds) for url in given]


def read_token(token_file: str) -> str:
    """Read the service token. Raises Failure."""
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    path = Path(token_file) if token_file else Path(config) / "junctor" / "service.token"
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise Failure(f"cannot read the service token {path}: {why}; name it with --token-file") from None


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"answered {response.status_code}"
