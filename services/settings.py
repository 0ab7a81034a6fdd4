"""The settings of a server process: one frozen tree, read and validated once, passed down.

Flags win over ``JUNCTOR_*`` variables, these over the TOML file of ``--config``, that over the defaults of
:mod:`services.settings_table`. Nothing else reads the environment. Every bad value is reported at once.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from services.access.options import AccessOptions, OidcOptions
from services.runtime.addresses import Network
from services.runtime.auth import Secret
from services.runtime.collector import Collector, fields
from services.runtime.egress import Egress, Proxy
from services.runtime.no_proxy import NoProxy
from services.settings_table import (
    CLIENT_ENVS,
    CONFIG_ENV,
    GATEWAY,
    PORTS,
    SETTINGS,
    UP,
    Facts,
    Setting,
    collector_headers,
    database_url,
    proxy,
    secret,
)
from services.settings_tls import Tls, tls_problems

_K8S_LINK = re.compile(r"JUNCTOR_(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT(?:_\d+_.*)?)")

_MEANT = "set JUNCTOR_INSECURE=true if that is meant"


class SettingsError(Exception):
    """Some settings are bad; ``problems`` has a line for each. Exit code 2 is the caller's part."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Peers:
    """gRPC targets of the services; None: it runs in this process, ask its own listener."""

    access_control: str | None
    model_registry: str | None
    provider_registry: str | None
    inference_router: str | None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Upstream timers, seconds; a provider may have its own."""

    connect: float
    first_byte: float
    idle: float
    total: float


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may call."""

    mode: str
    """``off`` or ``on``."""
    admin_key: Secret | None
    admin_key_file: Path | None
    insecure: bool
    access: AccessOptions

    @property
    def on(self) -> bool:
        """Callers are told apart."""
        return self.mode == "on"


@dataclass(frozen=True, slots=True)
class Log:
    """For :func:`services.runtime.telemetry.configure`."""

    level: str
    format: str


@dataclass(frozen=True, slots=True)
class Watching:
    """For :mod:`services.observing`."""

    collector: Collector | None
    """Where traces go; None: nothing is traced."""
    trace_sample: float
    log_sample: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Watching:
        """Take what belongs together."""
        endpoint, headers = values["otlp_endpoint"], values["otlp_headers"]
        collector = None
        if endpoint is not None:
            given = {} if headers is None else fields(headers.reveal())
            collector = Collector(endpoint, values["otlp_protocol"] or "", given)
        return cls(collector, values["trace_sample"], values["log_sample"])


@dataclass(frozen=True, slots=True)
class Settings:
    """The tree. Sizes in bytes, times in seconds."""

    services: tuple[str, ...]
    """What this process runs: ``("up",)``, or names of services and ``gateway``."""
    edge: Address
    grpc: Address
    admin_port: int | None
    peers: Peers
    router_peers: tuple[str, ...]
    """``host:port`` of other routers."""
    data_dir: Path
    database_url: str | None
    """None: SQLite in ``data_dir``."""
    migrate: bool
    """A server migrates PostgreSQL's schemas by itself."""
    demo: bool
    detect: bool
    seed: bool
    seed_key: Secret | None
    """``NVIDIA_API_KEY``, for the seed's secret; None in a ``junctor up`` that detects, which brings it by itself."""
    workers: int
    hop: str
    """``direct`` or ``grpc``."""
    max_connections: int
    cors_origins: frozenset[bytes]
    """Origins whose pages may call the edge from a browser; empty: none."""
    console: bool
    """The edge serves the page at ``/console``."""
    grpc_max_connections: int
    grpc_max_streams: int
    grpc_max_connection_age: float | None
    """None: no limit."""
    secret_key_file: Path
    service_token_file: Path
    max_body: int
    timeouts: Timeouts
    drain_timeout: float
    upstream_networks: frozenset[Network]
    """Where providers may be."""
    egress: Egress
    """Proxies and authorities on the way to providers."""
    request_headers: frozenset[bytes] | None
    """The only header fields of a caller that pass; None: all that may."""
    queue_limit: int
    sse_ping: float | None
    audit_retention: int
    """Days."""
    usage_retention: int
    quota_fail: str
    """``open`` or ``closed``."""
    """Days."""
    """After how long a silence an event stream gets a comment; None: never."""
    discovery_interval: float
    default_workspace: str
    auth: Auth
    tls: Tls
    log: Log
    observing: Watching
    values: Mapping[str, Any]
    """Every row's value by its name, for :meth:`render`."""
    origins: Mapping[str, str]
    """Where each value is from: ``flag``, ``env``, ``file``, the name of another tool's variable, or ``default``."""
    unknown: tuple[str, ...]
    """Variables that begin with ``JUNCTOR_`` and are no settings: worth a warning."""
    exposures: tuple[str, ...]
    """What ``JUNCTOR_INSECURE`` allows here, a line each: worth a warning."""

    @classmethod
    def load(
        cls,
        flags: Mapping[str, Any],
        environ: Mapping[str, str],
        config_file: Path | None = None,
        *,
        services: Sequence[str] = (UP,),
    ) -> Settings:
        """Read and validate. ``flags`` maps row names to what was given, ``config`` among them.

        ``services`` decides defaults. Raises SettingsError with every problem there is.
        """
        facts = Facts(tuple(services), _config_home(environ))
        problems = [f"{name}: no such service" for name in services if name not in (UP, GATEWAY, *PORTS)]
        chosen = config_file or flags.get("config") or environ.get(CONFIG_ENV)
        file = _read_file(Path(chosen).expanduser(), problems) if chosen else {}
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for row in SETTINGS:
            origin, given = _given(row, flags, environ, file)
            origins[row.name] = origin
            try:
                values[row.name] = row.default_for(facts) if origin == "default" else row.rule(given)
            except ValueError as error:
                problems.append(f"{_name_at(row, origin)}: {error}{_but(row, given)}")
        if not problems:
            if not values["insecure"]:
                problems += [f"{line}; {_MEANT}" for line in _exposures(values, facts)]
            problems += [*_alone(values, facts), *tls_problems(values), *_oidc_problems(values)]
        if problems:
            raise SettingsError(problems)
        return _tree(facts, values, origins, environ)

    def render(self, *, redact: bool = True) -> str:
        """Write every value as TOML with its origin as a comment; secrets hidden unless ``redact`` is False."""
        lines = [f"{name} = {_toml(value, redact)}" for name, value in self.values.items()]
        width = max(map(len, lines))
        return "".join(
            ("# " if self.values[name] is None else "") + f"{line:<{width}}  # {self.origins[name]}\n"
            for name, line in zip(self.values, lines, strict=True)
        )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser every flag of the table; ``vars()`` of what it parses are the flags of :meth:`Settings.load`.

    Also ``--config`` and ``--print-config``. Values are left as text: :meth:`Settings.load` judges them.
    """
    parser.add_argument("--config", default=argparse.SUPPRESS, metavar="FILE", help="TOML file with settings.")
    parser.add_argument("--print-config", action="store_true", help="Print the settings in force, and exit.")
    for row in SETTINGS:
        if row.is_switch:
            on = row.flag.partition("/")[0]
            action: Any = argparse.BooleanOptionalAction
            parser.add_argument(on, dest=row.name, action=action, default=argparse.SUPPRESS, help=row.help)
        elif row.flag:
            shown = row.name.rpartition("_")[2].upper()
            parser.add_argument(row.flag, dest=row.name, default=argparse.SUPPRESS, metavar=shown, help=row.help)


def markdown_table() -> str:
    """Write the README's table of settings."""
    lines = ["| flag | setting | default | meaning |", "|---|---|---|---|"]
    lines.append(
        f"| `--config` | `{CONFIG_ENV}` | – | TOML file; its keys are the settings in lower case without prefix |"
    )
    for row in SETTINGS:
        flag = f"`{row.flag}`" if row.flag else ""
        lines.append(f"| {flag} | `{row.env}` | {_shown_default(row)} | {row.help} |")
    lines += [f"| CLI | `{env}` | {default} | {text} |" for env, (default, text) in CLIENT_ENVS.items()]
    return "\n".join(lines) + "\n"


def _shown_default(row: Setting) -> str:
    if row.shown_default:
        return row.shown_default
    if row.default is None:
        return "–"
    if isinstance(row.default, float):
        return f"{row.default:g}"
    return f"`{str(row.default).lower() if isinstance(row.default, bool) else row.default}`"


def _config_home(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME", "")
    # The standard says that a relative XDG_CONFIG_HOME is to be ignored.
    root = Path(base) if Path(base).is_absolute() else Path(environ.get("HOME") or Path.home()) / ".config"
    return root / "junctor"


def _read_file(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problems.append(f"--config {path}: {error.strerror}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"--config {path}: not TOML: {error}")
        return {}
    known = {row.name for row in SETTINGS}
    problems += [f"{key} in {path.name}: no such setting" for key in found if key not in known]
    return found


def _given(
    row: Setting, flags: Mapping[str, Any], environ: Mapping[str, str], file: Mapping[str, Any]
) -> tuple[str, Any]:
    if flags.get(row.name) is not None:
        return "flag", flags[row.name]
    value = environ.get(row.env, "")
    # An empty variable is an unset one. Kubernetes gives pods JUNCTOR_PORT=tcp://… when a Service is called junctor.
    if value and not (row.env.endswith("_PORT") and value.startswith("tcp://")):
        return "env", value
    if row.name in file:
        return "file", file[row.name]
    return next(((name, environ[name]) for name in row.conventions if environ.get(name)), ("default", None))


def _name_at(row: Setting, origin: str) -> str:
    names = {"flag": row.flag.partition("/")[0] or row.env, "file": f"{row.name} in the config file"}
    return names.get(origin, origin if origin in row.conventions else row.env)


def _but(row: Setting, given: Any) -> str:
    """Quote what was given, unless it may hold a credential."""
    return "" if row.rule in (secret, database_url, proxy, collector_headers) else f", not {str(given)[:60]!r}"


def _alone(values: Mapping[str, Any], facts: Facts) -> list[str]:
    """A registry is one process: its database file has one writer, and its callers may be sent to any of several."""
    one = [name for name in facts.services if name not in (UP, GATEWAY, "inference-router")]
    if values["workers"] == 1 or not one:
        return []
    return [f"JUNCTOR_WORKERS: {one[0]} is one process: only gateway and inference-router may have more workers"]


def _exposures(values: Mapping[str, Any], facts: Facts) -> list[str]:
    """Say what others can do or read at listeners that are not for this machine alone."""
    listeners = []
    if facts.runs(GATEWAY):
        listeners.append(("JUNCTOR_HOST", values["host"], values["tls_cert_file"]))
    if any(facts.runs(name) for name in PORTS):
        certificate = values["grpc_tls_cert_file"] or values["tls_cert_file"]
        listeners.append(("JUNCTOR_GRPC_HOST", values["grpc_host"], certificate))
    found = []
    for env, host, certificate in listeners:
        if is_loopback(host):
            continue
        where = f"{env}: {host} is not a loopback address and"
        if values["auth"] == "off":
            found.append(f"{where} JUNCTOR_AUTH is off, so anybody who reaches it may do anything")
        elif certificate is None:
            found.append(f"{where} has no TLS (JUNCTOR_TLS_CERT_FILE), so keys and tokens can be read on their way")
    return found


def is_loopback(host: str) -> bool:
    """Tell whether the host to listen on is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _unknown(environ: Mapping[str, str]) -> tuple[str, ...]:
    known = {row.env for row in SETTINGS} | set(CLIENT_ENVS) | {CONFIG_ENV}
    return tuple(
        sorted(
            name
            for name in environ
            if name.startswith("JUNCTOR_") and name not in known and not _K8S_LINK.fullmatch(name)
        )
    )


def _tree(facts: Facts, values: Mapping[str, Any], origins: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    v = values
    key = "" if facts.up and v["detect"] else environ.get("NVIDIA_API_KEY", "").strip()
    same = (
        "default_workspace",
        "demo",
        "detect",
        "seed",
        "workers",
        "hop",
        "secret_key_file",
        "service_token_file",
        "drain_timeout",
    )
    limits = (
        "audit_retention",
        "usage_retention",
        "quota_fail",
        "router_peers",
        "max_connections",
        "console",
        "grpc_max_connections",
        "grpc_max_streams",
        "grpc_max_connection_age",
    )
    more = ("admin_port", "data_dir", "database_url", "migrate", "upstream_networks", "discovery_interval")
    return Settings(
        services=facts.services,
        edge=Address(v["host"], v["port"]),
        grpc=Address(v["grpc_host"], v["grpc_port"]),
        peers=Peers(**{name: v[name] for name in (service.replace("-", "_") for service in PORTS)}),
        max_body=v["max_body_mb"] * 1024 * 1024,
        timeouts=Timeouts(v["connect_timeout"], v["first_byte_timeout"], v["idle_timeout"], v["total_timeout"]),
        auth=Auth(v["auth"], v["admin_key"], v["admin_key_file"], v["insecure"], _access(v)),
        tls=Tls.of(v),
        log=Log(v["log_level"], v["log_format"]),
        observing=Watching.of(v),
        egress=Egress(v["http_proxy"], v["https_proxy"], v["no_proxy"] or NoProxy(), _authorities(v["ca_file"])),
        queue_limit=v["queue_limit"],
        cors_origins=frozenset(origin.encode() for origin in v["cors_origins"]),
        sse_ping=v["sse_ping"],
        request_headers=_with_essentials(v["request_headers"]),
        values=MappingProxyType(dict(values)),
        origins=MappingProxyType(dict(origins)),
        unknown=_unknown(environ),
        exposures=tuple(_exposures(v, facts)),
        seed_key=Secret(key) if key else None,
        **{name: v[name] for name in (*same, *more, *limits)},
    )


def _oidc_problems(values: Mapping[str, Any]) -> list[str]:
    issuer = values["oidc_issuer"]
    if issuer is None:
        return []
    found = []
    if not values["oidc_audience"] and not values["oidc_client_id"]:
        found.append("JUNCTOR_OIDC_AUDIENCE: must be given with JUNCTOR_OIDC_ISSUER: tokens for others are not for us")
    url = urlsplit(issuer)
    if url.scheme == "http" and not is_loopback(url.hostname or "") and not values["insecure"]:
        found.append("JUNCTOR_OIDC_ISSUER: must be https, as its keys decide who is let in")
    return found


def _access(v: Mapping[str, Any]) -> AccessOptions:
    oidc = None
    if v["oidc_issuer"] is not None:
        client = v["oidc_client_id"] or ""
        audience = v["oidc_audience"] or ((client,) if client else ())
        oidc = OidcOptions(
            v["oidc_issuer"],
            audience,
            client_id=client,
            algorithms=v["oidc_algorithms"],
            groups_claim=v["oidc_groups_claim"],
        )
    return AccessOptions(v["access_max_stale"], frozenset(v["platform_admins"]), oidc)


def _authorities(file: Path | None) -> str:
    return "" if file is None else file.read_text("utf-8", errors="replace")


def _with_essentials(names: tuple[str, ...] | None) -> frozenset[bytes] | None:
    """Without them a provider cannot read the body, nor know what answer is understood."""
    return None if names is None else frozenset(name.encode() for name in (*names, "content-type", "accept"))


def _toml(value: Any, redact: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, Secret):
        value = "[redacted]" if redact else value.reveal()
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, Proxy):
        return json.dumps(str(value) if redact else value.reveal())
    if isinstance(value, tuple):
        return json.dumps(value)
    if isinstance(value, frozenset):
        return json.dumps(sorted(network.value for network in value))
    return json.dumps(_without_password(str(value)) if redact else str(value), ensure_ascii=False)


def _without_password(text: str) -> str:
    password = urlsplit(text).password if "://" in text else None
    return text.replace(f":{password}@", ":[redacted]@") if password else text
