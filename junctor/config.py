"""Where a client finds junctor: argument over environment over the current context of the config file.

The file is TOML (``JUNCTOR_CONFIG_FILE``, else ``~/.config/junctor/config.toml``), written 0600 because it may
hold access tokens::

    current = "lab"
    [contexts.lab]
    base_url = "https://junctor.example.com"
    workspace = "team"

Nothing else in this package reads the environment, but for commands whose options name their variable.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from junctor.errors import MalformedRequest

DEFAULT_BASE_URL: Final = "http://localhost:8080"
DEFAULT_WORKSPACE: Final = "default"
DEFAULT_CONTEXT: Final = "default"
DEFAULT_GRPC_PORT: Final = 50051
KEYS: Final = ("base_url", "workspace", "access_token", "grpc_target", "ca_file")
"""Keys of a context."""
VARIABLES: Final = {key: f"JUNCTOR_{key.upper()}" for key in KEYS} | {"ca_file": "JUNCTOR_TLS_CA_FILE"}
CONVENTIONS: Final = {"ca_file": "SSL_CERT_FILE"}
"""Variables of other tools that count where nothing else says anything."""
CONFIG_FILE: Final = "JUNCTOR_CONFIG_FILE"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client needs to know. ``access_token`` empty means none.

    ``grpc_target`` is any gRPC target. It is called over TLS if the base URL is https; ``http://`` or ``https://``
    before it says otherwise.
    """

    base_url: str = DEFAULT_BASE_URL
    workspace: str = DEFAULT_WORKSPACE
    access_token: str = field(default="", repr=False)
    grpc_target: str = ""
    ca_file: str = ""
    """PEM file of the authorities that vouch for junctor; empty: the public ones."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each value came from: ``argument``, a variable's name, ``context <name>`` or ``default``."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The config file's content; every change makes a new one."""

    current: str = DEFAULT_CONTEXT
    contexts: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    @property
    def active(self) -> Mapping[str, str]:
        """The current context; empty if there is none of that name."""
        return self.contexts.get(self.current, {})

    def with_values(self, context: str, values: Mapping[str, str]) -> ConfigFile:
        """Set values of a context, which is made if absent; an empty value removes its key."""
        merged = {**self.contexts.get(context, {}), **values}
        kept = {key: value for key, value in merged.items() if value}
        return replace(self, contexts={**self.contexts, context: kept})


def resolve(environment: Mapping[str, str] | None = None, **arguments: str | None) -> Settings:
    """Merge arguments (``base_url=…``; None or empty: not given), environment and file.

    Raises MalformedRequest when the file cannot be read.
    """
    environment = os.environ if environment is None else environment
    file = load(path(environment))
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for key in KEYS:
        offers = [("argument", arguments.get(key)), (VARIABLES[key], environment.get(VARIABLES[key]))]
        offers.append((f"context {file.current}", file.active.get(key)))
        if key in CONVENTIONS:
            offers.append((CONVENTIONS[key], environment.get(CONVENTIONS[key])))
        chosen = next(((source, value) for source, value in offers if value), None)
        sources[key], values[key] = chosen or ("default", getattr(Settings(), key))
    values["base_url"] = values["base_url"].rstrip("/")
    values["grpc_target"] = values["grpc_target"] or f"{_host(values['base_url'])}:{DEFAULT_GRPC_PORT}"
    return Settings(**values, sources=sources)


def path(environment: Mapping[str, str] | None = None) -> Path:
    """Return where the config file is, whether it exists or not."""
    environment = os.environ if environment is None else environment
    if given := environment.get(CONFIG_FILE):
        return Path(given).expanduser()
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or "~", ".config").expanduser()
    return Path(home) / "junctor" / "config.toml"


def load(file: Path) -> ConfigFile:
    """Read the file; an absent one is empty. Raises MalformedRequest naming the file and what is wrong."""
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return ConfigFile()
    except (OSError, ValueError) as error:
        raise MalformedRequest(f"cannot read {file}: {_reason(error)}") from None
    contexts = content.get("contexts", {})
    if not isinstance(contexts, dict) or not all(isinstance(entry, dict) for entry in contexts.values()):
        raise MalformedRequest(f"cannot read {file}: [contexts.NAME] must be tables")
    read = {name: {key: str(entry[key]) for key in KEYS if key in entry} for name, entry in contexts.items()}
    return ConfigFile(str(content.get("current", DEFAULT_CONTEXT)), read)


def save(file: Path, content: ConfigFile) -> None:
    """Write the file as a whole, 0600, in a folder that is made 0700 if absent. Raises OSError."""
    lines = [f"current = {_quoted(content.current)}"]
    for name, values in content.contexts.items():
        lines += ["", f"[contexts.{_quoted(name)}]", *(f"{key} = {_quoted(value)}" for key, value in values.items())]
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".config-")  # made 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _reason(error: Exception) -> str:
    return (error.strerror or "unreadable") if isinstance(error, OSError) else f"no valid TOML ({error})"


def _host(base_url: str) -> str:
    try:
        host = urlsplit(base_url).hostname or "localhost"
    except ValueError:
        host = "localhost"
    return f"[{host}]" if ":" in host else host
