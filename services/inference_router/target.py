"""Joins a provider's base URL and the caller's path to a request target that cannot leave the base.

The path arrives percent-encoded. ``%2F`` means ``/`` (the SDKs of the HTTP contract encode the whole trailing
path), once; everything else keeps its spelling. What could be read as another path, a query or a fragment by
some server behind is refused rather than cleaned up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from junctor.errors import FieldViolation, InvalidField, MalformedRequest

_SLASH = re.compile(rb"%2[Ff]")
_PLAIN_PATH = re.compile(rb"(?:[A-Za-z0-9_~:@!$&'()*+,=-][A-Za-z0-9_~:@!$&'()*+,=.-]*+/?)*+")
_ALLOWED = re.compile(rb"(?:[A-Za-z0-9._~:@!$&'()*+,;=/-]|%[0-9A-Fa-f]{2})*+")
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
_DOTS = re.compile(rb"(?:\.|%2[Ee]){1,2}(?:(?:;|%3[Bb]|%20).*)?")
"""Segments that some server reads as ``.`` or ``..``: it drops parameters, or blanks at the end."""
_OVERLONG = re.compile(rb"%[Cc][01]|%[Ee]0%[89]|%[Ff]0%8")
"""Never part of UTF-8, but a lenient decoder makes dots and slashes of them (RFC 3629, 10)."""
_REFUSED_BYTES = frozenset(b"/\\?#%") | frozenset(range(0x20)) | {0x7F}
_BAD_QUERY = re.compile(rb"[\x00-\x20\x7f-\xff#]")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ProviderBase:
    """A provider's ``host_url`` and ``api_base_path``, taken apart once."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """Lower case; an IPv6 address without brackets."""
    port: int
    prefix: bytes
    """Path of ``host_url`` without a slash at its end; empty for a bare host."""
    api_base_path: bytes | None
    """What replaces the caller's leading ``v1``, as ``/path`` or empty; None: the ``/v1`` rule."""
    authority: bytes
    """Value of the ``host`` field; has the port unless it is the scheme's own."""


def parse_base(host_url: str, api_base_path: str | None = None) -> ProviderBase:
    """Take a provider's URL apart. Raises :class:`InvalidField` (``host_url``, ``api_base_path``)."""
    try:
        url = urlsplit(host_url)
        port = url.port
    except ValueError:
        raise _invalid("host_url", "must be a URL with a valid host and port") from None
    if url.scheme not in _PORTS or not url.hostname:
        raise _invalid("host_url", "must be an absolute http or https URL")
    if "@" in url.netloc or "?" in host_url or "#" in host_url:
        raise _invalid("host_url", "must have no user, query or fragment")
    bracketed = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    if _HOST.fullmatch(bracketed) is None or port == 0 or _CONTROL.search(host_url):
        raise _invalid("host_url", "must be a URL with a valid host and port")
    prefix = _checked_prefix("host_url", url.path)
    base_path = None if api_base_path is None else _checked_prefix("api_base_path", api_base_path)
    actual = port or _PORTS[url.scheme]
    authority = bracketed if actual == _PORTS[url.scheme] else f"{bracketed}:{actual}"
    return ProviderBase(url.scheme, url.hostname, actual, prefix, base_path, authority.encode())


def join_target(base: ProviderBase, raw_path: bytes, query: bytes = b"") -> bytes:
    """Return the origin-form target: the base's path, then the caller's, then ``?query`` verbatim.

    One ``v1`` is dropped where both have it; ``api_base_path`` takes the place of the caller's ``v1``. Raises
    :class:`MalformedRequest` for a path that could leave the prefix or change its meaning.
    """
    path = clean_path(raw_path)
    middle = b""
    if path.startswith(b"v1/"):
        if base.api_base_path is not None:
            path, middle = path[3:], base.api_base_path
        elif base.prefix.endswith(b"/v1"):
            path = path[3:]
    target = b"%b%b/%b" % (base.prefix, middle, path)
    if not query:
        return target
    if _BAD_QUERY.search(query):
        raise MalformedRequest("Invalid query: only visible ASCII other than '#' may stand unencoded")
    return b"%b?%b" % (target, query)


def clean_path(raw_path: bytes) -> bytes:
    """Return the path with ``%2F`` decoded. Raises :class:`MalformedRequest` with the rule that it breaks."""
    path = _SLASH.sub(b"/", raw_path) if b"%" in raw_path else raw_path
    if _PLAIN_PATH.fullmatch(path):
        return path
    if b"//" in path or path.startswith(b"/"):
        raise _refused("it must not start with a slash or have an empty segment")
    if _ALLOWED.fullmatch(path) is None:
        raise _refused("characters other than those of RFC 3986 must be percent-encoded")
    if any(int(code, 16) in _REFUSED_BYTES for code in _ENCODED.findall(path)):
        raise _refused("an encoded slash may be encoded once, and no '\\', '?', '#', '%' or control character")
    if _OVERLONG.search(path):
        raise _refused("percent-encoded bytes must not be an overlong form of UTF-8")
    if any(_DOTS.fullmatch(segment) for segment in path.split(b"/")):
        raise _refused("'.' and '..' segments are not allowed")
    return path


def _checked_prefix(field: str, text: str) -> bytes:
    try:
        path = clean_path(text.rstrip("/").removeprefix("/").encode())
    except MalformedRequest as error:
        raise _invalid(field, error.message.removeprefix("Invalid path: ")) from None
    return b"/" + path if path else b""


def _refused(rule: str) -> MalformedRequest:
    return MalformedRequest(f"Invalid path: {rule}")


def _invalid(field: str, rule: str) -> InvalidField:
    return InvalidField.of(FieldViolation(field, rule))
