"""HTTP for commands: a client for the configured server, and every way a call fails told in one line."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import httpx

from junctor.cli.failure import Failure

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0
"""Longest silence: above the server's own 300 s for a first byte, so that the server speaks first."""


@contextlib.contextmanager
def connect(base_url: str, access_token: str = "") -> Iterator[httpx.Client]:
    """Open a client for ``base_url``; what goes wrong inside the block becomes a :class:`Failure`."""
    url = _checked(base_url)
    headers = {"user-agent": f"junctor/{version('junctor')}"}
    if access_token:
        if not (access_token.isascii() and access_token.isprintable()):
            raise Failure("the access token must be printable ASCII")
        headers["authorization"] = f"Bearer {access_token}"
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        # A proxy of the environment is for the world outside, never for this machine.
        with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=not _loopback(url)) as client:
            yield client
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise Failure(f"cannot connect to {_shown(url)}; start a server with: junctor up") from None
    except httpx.TimeoutException:
        raise Failure(f"no answer from {_shown(url)} within {ANSWER_SECONDS:.0f} s") from None
    except httpx.RequestError:
        raise Failure(f"the connection to {_shown(url)} broke before the answer was complete") from None


def _checked(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise Failure("the base URL must look like http://localhost:8080")
    return url


def _shown(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")


def _loopback(url: httpx.URL) -> bool:
    if url.host == "localhost" or url.host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False


def check(response: httpx.Response) -> None:
    """Raise :class:`Failure` with what the server said unless the answer is a success."""
    if response.is_success:
        return
    body = response.read()
    try:
        said = error_text(json.loads(body))
    except (ValueError, RecursionError):
        said = ""
    raise Failure(said or f"the server answered {response.status_code} {response.reason_phrase}".rstrip())


def error_text(body: Any) -> str:
    """Read the message of an error body: ``detail`` as text or list, or ``error`` with a ``message``."""
    if not isinstance(body, dict):
        return ""
    detail, error = body.get("detail"), body.get("error")
    if isinstance(detail, list):
        return "; ".join(_violation(entry) for entry in detail)
    if isinstance(detail, str) and detail:
        return _one_line(detail)
    if isinstance(error, dict):
        return _one_line(str(error.get("message") or error.get("type") or ""))
    return _one_line(error) if isinstance(error, str) else ""


def _violation(entry: Any) -> str:
    if not isinstance(entry, dict):
        return _one_line(str(entry))
    place = ".".join(str(part) for part in entry.get("loc") or [])
    return _one_line(f"{place}: {entry.get('msg')}" if place else str(entry.get("msg")))


def _one_line(text: str) -> str:
    return " ".join(text.split())
