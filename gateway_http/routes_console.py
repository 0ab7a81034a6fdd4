"""``/console``: the page that shows what junctor does, from files of this package, and nothing else.

The files hold nothing that is anybody's, so they are open; what the page shows it asks of the public API with its
user's own credential. Paths are looked up in a table made at the start: there is no path to climb out of.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway_http import errors
from gateway_http.asgi import send_response
from services.runtime.exchange import Headers

PATH = "/console"

Discovery = Callable[[], Mapping[str, Any]]
"""What ``GET /apis/auth/discovery`` says of the OIDC issuer; empty without one."""

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{issuer}; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_FIXED: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-cache"),
]
"""Of every answer. ``no-cache``: kept, but asked for again each time, so that no page is of two releases."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_ALLOW = b"GET, HEAD"


@dataclass(frozen=True, slots=True)
class File:
    """One file of the page."""

    content: bytes
    type: str
    etag: bytes


def routes(discovery: Discovery | None) -> list[Route]:
    """Return the routes of the page; ``discovery`` None: auth is off."""
    return [Route(path, endpoint=Page(file, discovery or dict)) for path, file in _table().items()]


def open_paths() -> frozenset[bytes]:
    """Return the raw paths that need no credential, byte for byte."""
    return frozenset(path.encode() for path in _table())


def policy(oidc: Mapping[str, Any]) -> str:
    """Return the content security policy; an issuer's endpoints are where the page may fetch its token."""
    given = (oidc.get("issuer"), oidc.get("token_endpoint"))
    origins = dict.fromkeys(origin for url in given if (origin := _origin(url)))
    return _POLICY.format(issuer="".join(f" {origin}" for origin in origins))


class Page:
    """The ASGI application of one file."""

    def __init__(self, file: File, discovery: Discovery) -> None:
        self._file = file
        self._discovery = discovery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 200, or 304 if the caller has the file."""
        if scope["method"] not in ("GET", "HEAD"):
            await send_response(send, errors.refusal(405, "Method Not Allowed", headers=[(b"allow", _ALLOW)]), _FIXED)
            return
        file = self._file
        known = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
        fresh = file.etag in (tag.strip().removeprefix(b"W/") for tag in known.split(b","))
        headers: Headers = [*_FIXED, (b"etag", file.etag)]
        headers.append((b"content-security-policy", policy(self._discovery()).encode()))
        if not fresh:
            headers.append((b"content-type", file.type.encode()))
            headers.append((b"content-length", b"%d" % len(file.content)))
        await send({"type": "http.response.start", "status": 304 if fresh else 200, "headers": headers})
        body = b"" if fresh or scope["method"] == "HEAD" else file.content
        await send({"type": "http.response.body", "body": body})


def _table() -> dict[str, File]:
    """Return every file by its path; the page itself under ``/console`` and ``/console/``."""
    table = {f"{PATH}/{name}": file for name, file in _read()}
    page = table.pop(f"{PATH}/index.html")
    return {PATH: page, f"{PATH}/": page, **table}


def _read() -> Iterable[tuple[str, File]]:
    for entry in files("gateway_http.console").joinpath("static").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in TYPES:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            yield entry.name, File(content, TYPES[suffix], etag.encode())


def _origin(url: Any) -> str:
    """Return the origin of a URL as a policy may have it; empty if it has none that is safe to write there."""
    try:
        parts = urlsplit(str(url or ""))
        origin = f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        return ""
    return origin if _ORIGIN.fullmatch(origin) else ""
