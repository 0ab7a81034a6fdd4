"""Where traces go, as the settings say it; apart from what sends them, which is imported only then."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from services.runtime.auth import Secret

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go."""

    endpoint: str
    """``http://`` or ``https://``, host and port; over HTTP, without a path, ``/v1/traces`` is asked."""
    protocol: str = ""
    """``grpc`` or ``http/protobuf``; empty: grpc for port 4317, else HTTP."""
    headers: Mapping[str, Secret] = field(default_factory=dict)

    @property
    def over_grpc(self) -> bool:
        """Tell which of the two it speaks."""
        return (self.protocol or ("grpc" if urlsplit(self.endpoint).port == 4317 else "http/protobuf")) == "grpc"


def fields(text: str) -> dict[str, Secret]:
    """Read header fields: ``name=value`` divided by commas, values percent-encoded (OTEL_EXPORTER_OTLP_HEADERS).

    Raises ValueError.
    """
    found = {}
    for each in text.split(","):
        name, separator, value = each.partition("=")
        if not separator or not _TOKEN.fullmatch(name.strip()) or not unquote(value).isprintable():
            raise ValueError("must be name=value, divided by commas")
        found[name.strip().lower()] = Secret(unquote(value).strip())
    return found
