"""Joins a provider's base URL and a path: the ``/v1`` rule, the same for proxied calls and for discovery."""

from __future__ import annotations

_VERSION = "v1/"


def join(host_url: str, path: str, *, api_base_path: str | None = None) -> str:
    """Return the URL of ``path`` (without a leading slash) at a provider.

    Without ``api_base_path``: if ``host_url`` ends with ``/v1`` and the path begins with ``v1/``, one of them is
    dropped. With it (also when empty): it takes the place of the path's leading ``v1/``. Source: the HTTP contract.
    """
    base = host_url.rstrip("/")
    if api_base_path is None:
        return f"{base}/{path.removeprefix(_VERSION) if base.endswith('/v1') else path}"
    if not path.startswith(_VERSION):
        return f"{base}/{path}"
    prefix = api_base_path.strip("/")
    return "/".join(part for part in (base, prefix, path.removeprefix(_VERSION)) if part)
