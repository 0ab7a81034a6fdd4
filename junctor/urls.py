"""Addresses of the HTTP surface, and the headers by which a caller is known there."""

from __future__ import annotations

import ipaddress
from importlib.metadata import version
from urllib.parse import SplitResult, urlsplit

from junctor.config import Settings
from junctor.errors import FieldViolation, InvalidField
from junctor.request import segment

NO_TOKEN = "not-needed"  # noqa: S105 - what OpenAI's clients send where they insist on a key
GATEWAY = "apis/inference-gateway/v2/workspaces"


def checked(base_url: str) -> SplitResult:
    """Split a base URL. Raises InvalidField unless it is absolute http or https, and of junctor, not of its /v1."""
    try:
        url = urlsplit(base_url)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 0) >= 0
    except ValueError:
        valid = False
    if not valid:
        raise _invalid("base_url", "the base URL", "must look like http://localhost:8080")
    if url.path.rstrip("/").endswith("/v1"):  # OpenAI's clients want it there
        raise _invalid("base_url", "the base URL", "must be junctor's own, without /v1 at its end")
    return url


def shown(url: SplitResult) -> str:
    """Write the address for people: no user, no password, no query."""
    host = url.netloc.rpartition("@")[2]
    return f"{url.scheme}://{host}{url.path}".rstrip("/")


def is_loopback(host: str | None) -> bool:
    """Tell whether ``host`` is this machine by its name or address."""
    if not host or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def identity(settings: Settings) -> dict[str, str]:
    """Return the headers of every call: who the client is, and its token if there is one."""
    headers = {"user-agent": f"junctor/{version('junctor')}"}
    token = settings.access_token
    if token:
        if not (token.isascii() and token.isprintable()):
            raise _invalid("access_token", "the access token", "must be printable ASCII")
        headers["authorization"] = f"Bearer {token}"
    return headers


def openai_route(base_url: str, workspace: str) -> str:
    """Return the OpenAI base URL of a workspace: routes by the body's model."""
    return f"{base_url}/{GATEWAY}/{segment(workspace, 'workspace')}/openai/-/v1"


def model_route(base_url: str, workspace: str, name: str) -> str:
    """Return the OpenAI base URL of one model."""
    return f"{base_url}/{GATEWAY}/{segment(workspace, 'workspace')}/model/{segment(name)}/-/v1"


def provider_route(base_url: str, workspace: str, name: str) -> str:
    """Return the OpenAI base URL of one provider; right whether or not its own address ends with ``/v1``."""
    return f"{base_url}/{GATEWAY}/{segment(workspace, 'workspace')}/provider/{segment(name)}/-/v1"


def _invalid(field: str, what: str, rule: str) -> InvalidField:
    return InvalidField(f"{what} {rule}", violations=(FieldViolation(field, rule),))
