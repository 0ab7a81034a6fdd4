"""The rows of every setting: name, flag, rule, default, meaning.

The loader, ``--help``, ``--print-config`` and the README's table are made from these rows and from nothing else.
A rule takes the text of a flag or variable, or a value of the TOML file, and returns the value or raises ValueError
with the rule in words.
"""

from __future__ import annotations

import ipaddress
import math
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from junctor import names
from services.access.options import ALGORITHMS
from services.runtime.addresses import Network
from services.runtime.auth import Secret
from services.runtime.collector import fields
from services.runtime.egress import Proxy
from services.runtime.no_proxy import NoProxy
from services.runtime.telemetry import FORMATS, LEVELS

UP: Final = "up"
GATEWAY: Final = "gateway"
PORTS: Final[Mapping[str, int]] = {
    "access-control": 50051,
    "model-registry": 50052,
    "provider-registry": 50053,
    "inference-router": 50054,
}
"""The gRPC services with the port of each when it runs alone."""
NETWORKS: Final = {network.value: network for network in (Network.PUBLIC, Network.PRIVATE, Network.LOOPBACK)}

Rule = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One row. ``default`` is a value, or a function of the :class:`Facts` that are known at start."""

    name: str
    """Lower snake case: the key of the TOML file. ``JUNCTOR_`` and the upper case is the variable."""
    rule: Rule
    default: Any
    help: str
    flag: str = ""
    """``--port``; a switch has two, ``--demo/--no-demo``; empty: none."""
    shown_default: str = ""
    """What tables say when the default is a function or has a unit."""
    conventions: tuple[str, ...] = ()
    """Variables of other tools that count where nothing else says anything; the first that is set wins."""

    @property
    def env(self) -> str:
        """The environment variable."""
        return f"JUNCTOR_{self.name.upper()}"

    @property
    def is_switch(self) -> bool:
        """True if the flag takes no value."""
        return "/" in self.flag

    def default_for(self, facts: Facts) -> Any:
        """Return the default in this process."""
        return self.default(facts) if callable(self.default) else self.default


@dataclass(frozen=True, slots=True)
class Facts:
    """What a default may depend on."""

    services: tuple[str, ...]
    """Names of the services in this process; ``("up",)`` for all with the edge."""
    config_home: Path
    """``$XDG_CONFIG_HOME/junctor``."""

    @property
    def up(self) -> bool:
        """True for ``junctor up``."""
        return UP in self.services

    def runs(self, service: str) -> bool:
        """Tell whether the service is part of this process."""
        return self.up or service in self.services

    @property
    def grpc_port(self) -> int:
        """The first service's own port; ``up`` has that of access-control, the lowest."""
        return next((port for name, port in PORTS.items() if self.runs(name)), PORTS["access-control"])


def text(value: Any) -> str:
    """Any text without control characters, not empty."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("must be text, not empty")
    return value.strip()


def switch(value: Any) -> bool:
    """True or false."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if not isinstance(value, str) or value.strip().lower() not in known:
        raise ValueError("must be true or false")
    return known[value.strip().lower()]


def whole(low: int, high: int) -> Rule:
    """A whole number within bounds, both included."""

    def rule(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return rule


def seconds(value: Any) -> float:
    """A positive number of seconds, at most a day."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= 86_400:
        raise ValueError("must be a number of seconds above 0, at most 86400")
    return number


def seconds_or_off(value: Any) -> float | None:
    """A positive number of seconds, at most a day, or ``off``."""
    if value is None or (isinstance(value, str) and value.strip().lower() == "off"):
        return None
    try:
        return seconds(value)
    except ValueError:
        raise ValueError("must be a number of seconds above 0, at most 86400, or off") from None


def one_of(*choices: str) -> Rule:
    """One of a few words, case ignored."""

    def rule(value: Any) -> str:
        if not isinstance(value, str) or value.strip().lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value.strip().lower()

    return rule


def port_or_off(value: Any) -> int | None:
    """A port, or ``off``."""
    if value is None or (isinstance(value, str) and value.strip().lower() == "off"):
        return None
    try:
        return int(port(value))
    except ValueError:
        raise ValueError("must be a port (0 to 65535, 0: a free one) or off") from None


def port(value: Any) -> int:
    """A port; 0 lets the system choose."""
    try:
        return int(whole(0, 65_535)(value))
    except ValueError:
        raise ValueError("must be a port (0 to 65535, 0: a free one)") from None


def host(value: Any) -> str:
    """A name or an address to listen on; brackets of IPv6 are taken off."""
    try:
        given = text(value).removeprefix("[").removesuffix("]")
        if ":" in given:
            ipaddress.IPv6Address(given)
    except ValueError:
        given = ""
    if not given or any(mark in given for mark in "/ @"):
        raise ValueError("must be a host name or an address, without a port")
    return given


def path(value: Any) -> Path:
    """A path; ``~`` is the home folder."""
    return Path(text(str(value))).expanduser()


def networks(value: Any) -> frozenset[Network]:
    """A comma-separated choice of NETWORKS (a list in TOML)."""
    given = value.split(",") if isinstance(value, str) else value
    words = [str(word).strip().lower() for word in given] if isinstance(given, list) else []
    if not words or any(word not in NETWORKS for word in words):
        raise ValueError(f"must be a comma-separated choice of {', '.join(NETWORKS)}")
    return frozenset(NETWORKS[word] for word in words)


def database_url(value: Any) -> str:
    """A ``postgresql://`` URL with a host or a socket folder, and a database."""
    given = text(value)
    try:
        parts = urlsplit(given)
        fits = parts.scheme == "postgresql" and len(parts.path) > 1
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("must be postgresql://user:password@host:port/database")
    return given


def proxy(value: Any) -> Proxy | None:
    """The URL of an HTTP proxy, or ``none``."""
    given = text(value)
    return None if given.lower() == "none" else Proxy.parse(given)


def no_proxy(value: Any) -> NoProxy:
    """Hosts, domains, addresses, CIDR blocks, each with a port if one likes, or ``*`` (a list in TOML)."""
    return NoProxy(",".join(map(str, value)) if isinstance(value, list) else text(value))


def ca_file(value: Any) -> Path:
    """A file with PEM certificates."""
    found = path(value)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(found)
    except OSError:  # ssl.SSLError is one
        raise ValueError("must be a file with PEM certificates that can be read") from None
    return found


def peer_names(value: Any) -> tuple[str, ...]:
    """DNS names and URIs as certificates have them, divided by commas (a list in TOML), or ``*``."""
    given = value.split(",") if isinstance(value, str) else value
    found = [str(name).strip() for name in given] if isinstance(given, list) else [""]
    if not found or not all(name and name.isascii() and name.isprintable() and " " not in name for name in found):
        raise ValueError("must be DNS names or URIs of certificates, divided by commas, or *")
    return tuple(sorted(set(found)))


def header_names(value: Any) -> tuple[str, ...] | None:
    """Names of header fields, divided by commas (a list in TOML), or ``all``."""
    given = value.split(",") if isinstance(value, str) else value
    names = [str(name).strip().lower() for name in given] if isinstance(given, list) else [""]
    if names == ["all"]:
        return None
    if not names or not all(_TOKEN.fullmatch(name) for name in names):
        raise ValueError("must be names of header fields, divided by commas, or all")
    return tuple(sorted(set(names)))


def origins(value: Any) -> tuple[str, ...]:
    """Origins as browsers write them, divided by commas (a list in TOML); ``none`` for none of them."""
    given = value.split(",") if isinstance(value, str) else value
    found = [str(origin).strip().lower() for origin in given] if isinstance(given, list) else [""]
    if found in ([], ["none"]):
        return ()
    if not all(_ORIGIN.fullmatch(origin) for origin in found):
        raise ValueError("must be origins such as https://app.example, divided by commas; * is not one")
    return tuple(sorted(set(found)))


def router_peers(value: Any) -> tuple[str, ...]:
    """``host:port`` of other routers, divided by commas (a list in TOML); ``dns:///`` in front changes nothing."""
    given = value.split(",") if isinstance(value, str) else value
    words = [str(word).strip().removeprefix("dns:///") for word in given] if isinstance(given, list) else []
    try:
        return tuple(dict.fromkeys(_host_and_port(word) for word in words))
    except ValueError:
        raise ValueError("must be host:port of other routers, divided by commas (dns:///host:port)") from None


def _host_and_port(value: str) -> str:
    name, _, number = value.rpartition(":")
    if (":" in host(name)) is not name.startswith("["):
        raise ValueError
    return f"{name}:{whole(1, 65_535)(number)}"


def names_or_none(value: Any) -> tuple[str, ...]:
    """Words divided by commas (a list in TOML)."""
    given = value.split(",") if isinstance(value, str) else value
    found = [str(word).strip() for word in given] if isinstance(given, list) else [""]
    if not all(word and word.isprintable() for word in found):
        raise ValueError("must be names, divided by commas")
    return tuple(dict.fromkeys(found))


def issuer(value: Any) -> str:
    """The URL of an OIDC issuer, as its tokens have it."""
    parts = urlsplit(value) if isinstance(value, str) else urlsplit("")
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must be the URL of the issuer: https://…, without query and fragment")
    return str(value)


def algorithms(value: Any) -> tuple[str, ...]:
    """Asymmetric algorithms of JSON Web Signatures, divided by commas."""
    found = names_or_none(value)
    if not set(found) <= set(ALGORITHMS):
        raise ValueError(f"must be some of {', '.join(ALGORITHMS)}")
    return found


def share(value: Any) -> float:
    """A share: 0 for none, 1 for all."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError("must be a number from 0 to 1")
    return number


def collector_url(value: Any) -> str:
    """Where OTLP is taken: ``http://`` or ``https://``, a host, a port."""
    given = text(value)
    try:
        parts = urlsplit(given)
        plain = "@" not in parts.netloc and parts.port != 0
        fits = plain and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("must be http://host:port or https://host:port")
    return given


def collector_headers(value: Any) -> Secret:
    """Header fields for a collector, as :func:`services.runtime.collector.fields` reads them."""
    given = text(value)
    fields(given)
    return Secret(given)


def workspace(value: Any) -> str:
    """The name of a workspace."""
    if not isinstance(value, str) or not names.is_name(value):
        raise ValueError("must be the name of a workspace")
    return value


def secret(value: Any) -> Secret:
    """A value that is never shown."""
    return Secret(text(value))


def _peer(name: str) -> Setting:
    shown = f"`127.0.0.1:{PORTS[name]}`; in one process: itself"
    return Setting(
        name.replace("-", "_"),
        text,
        lambda facts: None if facts.runs(name) else f"127.0.0.1:{PORTS[name]}",
        f"Where {name} is, any gRPC target (`host:port`, `dns:///…`).",
        shown_default=shown,
    )


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?")
_ALONE = ", ".join(f"{name} {number}" for name, number in PORTS.items())

SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("host", host, "127.0.0.1", "Address of the HTTP edge.", "--host"),
    Setting("port", port, 8080, "Port of the HTTP edge.", "--port"),
    Setting("grpc_host", host, "127.0.0.1", "Address of the gRPC listener.", "--grpc-host"),
    Setting(
        "grpc_port",
        port,
        lambda facts: facts.grpc_port,
        "Port of the gRPC listener; services in one process share it.",
        "--grpc-port",
        shown_default=f"`up` 50051; alone: {_ALONE}",
    ),
    Setting(
        "admin_port",
        port_or_off,
        None,
        "Plain HTTP for operators in every process: `/health/live`, `/health/ready`, `/metrics`.",
        "--admin-port",
        shown_default="off",
    ),
    *(_peer(name) for name in PORTS),
    Setting(
        "router_peers",
        router_peers,
        (),
        "Other routers, `host:port` or `dns:///host:port`, divided by commas; all addresses of a name are asked. A "
        "router that starts takes catalog and secrets from one of them, to serve while every registry is down.",
        shown_default="–",
    ),
    Setting(
        "data_dir", path, Path("junctor-data"), "SQLite files, last good catalog.", "--data-dir", "`./junctor-data`"
    ),
    Setting(
        "database_url",
        database_url,
        None,
        "`postgresql://…` instead of SQLite.",
        "--database-url",
        shown_default="SQLite in the data folder",
    ),
    Setting(
        "migrate",
        switch,
        lambda facts: facts.up,
        "Migrate PostgreSQL's schemas at start; off: refuse one that is older than needed. SQLite always migrates.",
        "--migrate/--no-migrate",
        "on in `up` only",
    ),
    Setting("demo", switch, lambda facts: facts.up, "The demo provider.", "--demo/--no-demo", "on in `up` only"),
    Setting(
        "detect",
        switch,
        lambda facts: facts.up,
        "Look for local model servers and provider keys.",
        "--detect/--no-detect",
        shown_default="on in `up` only",
    ),
    Setting("seed", switch, True, "Make the provider `system/nvidia-build` at first start."),
    Setting("workers", whole(1, 256), 1, "Processes for gateway and router, which share its ports.", "--workers"),
    Setting(
        "hop",
        one_of("direct", "grpc"),
        "direct",
        "How edge and router of one process talk: `direct` call, or `grpc` as across processes.",
    ),
    Setting(
        "secret_key_file",
        path,
        lambda facts: facts.config_home / "secret.key",
        "Key that encrypts secrets; made 0600 at first start.",
        shown_default="`$XDG_CONFIG_HOME/junctor/secret.key`",
    ),
    Setting(
        "service_token_file",
        path,
        lambda facts: facts.config_home / "service.token",
        "Token between services; made 0600 at first start.",
        shown_default="`$XDG_CONFIG_HOME/junctor/service.token`",
    ),
    Setting(
        "max_connections",
        whole(1, 1_000_000),
        10_000,
        "Clients connected to the edge at once, in each process; over it: 503.",
    ),
    Setting(
        "cors_origins",
        origins,
        (),
        "Origins (`https://app.example`, divided by commas) whose pages may call the edge from a browser, with keys of "
        "their own. Never `*`, never with a browser's credentials.",
        shown_default="none",
    ),
    Setting("console", switch, True, "The page at `/console`. It holds nothing; what it shows takes its user's key."),
    Setting(
        "grpc_max_connections",
        whole(1, 1_000_000),
        10_000,
        "Connections to the gRPC port at once, in each process; further ones are closed.",
    ),
    Setting("grpc_max_streams", whole(1, 1_000_000), 10_000, "Calls at once on one gRPC connection."),
    Setting(
        "grpc_max_connection_age",
        seconds_or_off,
        None,
        "Seconds after which a gRPC connection is asked to come back, perhaps to another process; "
        "calls on it go on for up to `JUNCTOR_TOTAL_TIMEOUT`.",
        shown_default="off",
    ),
    Setting("max_body_mb", whole(1, 2000), 64, "Limit of a request body in MiB; over it: 413."),
    Setting("connect_timeout", seconds, 5.0, "Seconds to connect to a provider."),
    Setting("first_byte_timeout", seconds, 300.0, "Seconds until a provider's answer begins."),
    Setting("idle_timeout", seconds, 120.0, "Seconds between two parts of an answer."),
    Setting("total_timeout", seconds, 1800.0, "Seconds for a whole call, all attempts together."),
    Setting(
        "queue_limit",
        whole(0, 100_000),
        100,
        "Calls that may wait, in each router process, for one provider whose `max_concurrency` is reached; more: 503.",
    ),
    Setting(
        "sse_ping",
        seconds_or_off,
        None,
        "Seconds of silence after which an event stream gets a comment, so that proxies keep it open. One before the "
        "first event ends failover.",
        shown_default="off",
    ),
    Setting("drain_timeout", seconds, 60.0, "Seconds that SIGTERM waits for streams."),
    Setting(
        "upstream_networks",
        networks,
        lambda facts: frozenset(NETWORKS.values()) - (set() if facts.up else {Network.LOOPBACK}),
        "Addresses a provider may have (`public`, `private`, `loopback`); metadata and link-local never.",
        shown_default="`public,private`; in `up` also `loopback`",
    ),
    *(
        Setting(
            f"{scheme}_proxy",
            proxy,
            None,
            f"Proxy to providers whose URL is `{scheme}`: `http://[user:password@]host[:port]`, `https://…` for TLS to "
            "the proxy itself, `none`. Never used for this machine; a provider's own `proxy` wins.",
            shown_default=f"`{scheme.upper()}_PROXY`",
            conventions=(f"{scheme}_proxy", f"{scheme.upper()}_PROXY"),
        )
        for scheme in ("http", "https")
    ),
    Setting(
        "no_proxy",
        no_proxy,
        None,
        "Hosts to reach without these proxies: names with all below them, addresses, CIDR blocks, each with `:port` "
        "if one likes; `*`.",
        shown_default="`NO_PROXY`",
        conventions=("no_proxy", "NO_PROXY"),
    ),
    Setting(
        "ca_file",
        ca_file,
        None,
        "PEM file of the authorities to trust instead of the system's, for providers without their own and proxies.",
        shown_default="the system's",
    ),
    Setting(
        "request_headers",
        header_names,
        None,
        "The only header fields of a caller that a provider gets, besides `content-type` and `accept`; `all`: every "
        "one but framing, hop-by-hop fields, credentials and identity.",
        shown_default="`all`",
    ),
    Setting(
        "discovery_interval",
        seconds,
        10.0,
        "Seconds between discoveries of READY providers; others are retried every 2 s rising to 10 s.",
    ),
    Setting("default_workspace", workspace, "default", "Workspace of the plain `/v1`."),
    Setting(
        "auth",
        one_of("off", "on"),
        "off",
        "`on`: every caller shows a key or a token, and may do what its roles allow. `off` is for loopback addresses.",
        "--auth",
    ),
    Setting("admin_key", secret, None, "A key that may do everything, chosen by you; a new value replaces it."),
    Setting("admin_key_file", path, None, "File with that key."),
    Setting(
        "access_max_stale",
        seconds,
        86_400.0,
        "Seconds for which keys and roles are good without hearing from access-control; then nobody is let in.",
    ),
    Setting(
        "platform_admins",
        names_or_none,
        (),
        "Subjects, e-mail addresses and `group:<name>` that may do everything.",
        shown_default="none",
    ),
    Setting("oidc_issuer", issuer, None, "URL of the OIDC issuer whose tokens are taken.", shown_default="off"),
    Setting(
        "oidc_audience",
        names_or_none,
        (),
        "What a token's `aud` must have one of.",
        shown_default="`JUNCTOR_OIDC_CLIENT_ID`",
    ),
    Setting("oidc_client_id", text, None, "Client that browsers and command lines log in as."),
    Setting(
        "oidc_algorithms",
        algorithms,
        ("RS256", "ES256"),
        "Algorithms that tokens may be signed with.",
        shown_default="`RS256,ES256`",
    ),
    Setting("oidc_groups_claim", text, "groups", "Claim with the names of a user's groups."),
    Setting("audit_retention", whole(1, 36_500), 90, "Days that the record of writes and refused calls goes back."),
    Setting("usage_retention", whole(1, 36_500), 90, "Days that the records of what requests used go back."),
    Setting(
        "quota_fail",
        one_of("open", "closed"),
        "open",
        "What holds while the quota service does not answer: `open`, an even share of each limit in every router; "
        "`closed`, calls that have a limit are refused.",
    ),
    Setting(
        "tls_cert_file",
        path,
        None,
        "PEM file with the certificate of this process's listeners (HTTP edge and gRPC), then those between it and its "
        "authority. With it they speak TLS 1.2 or 1.3 only. Read again when it changes.",
        "--tls-cert-file",
        shown_default="off",
    ),
    Setting("tls_key_file", path, None, "PEM file with its RSA or ECDSA key, not encrypted.", "--tls-key-file"),
    Setting(
        "grpc_tls_cert_file",
        path,
        None,
        "Another certificate for the gRPC listeners.",
        shown_default="`JUNCTOR_TLS_CERT_FILE`",
    ),
    Setting("grpc_tls_key_file", path, None, "Its key.", shown_default="`JUNCTOR_TLS_KEY_FILE`"),
    Setting(
        "peer_ca_file",
        path,
        None,
        "PEM file of the authorities that vouch for the other services. With it they are called over TLS.",
        shown_default="off",
    ),
    Setting("peer_cert_file", path, None, "Certificate to show to the services called.", shown_default="none"),
    Setting("peer_key_file", path, None, "Its key.", shown_default="none"),
    Setting(
        "peer_client_ca_file",
        path,
        None,
        "PEM file of the authorities that vouch for other processes of junctor. With it gRPC callers must show a "
        "certificate: at `JUNCTOR_PEER_PORT` if that is set, else at the gRPC port.",
        shown_default="off",
    ),
    Setting(
        "peer_port",
        port_or_off,
        None,
        "Second gRPC port, for other processes of junctor; the first one then asks nobody for a certificate.",
        "--peer-port",
        shown_default="off",
    ),
    Setting(
        "peer_names",
        peer_names,
        None,
        "Names in certificates (DNS names and URIs of the SAN) that may call internal services, divided by commas; "
        "`*`: every one that `JUNCTOR_PEER_CLIENT_CA_FILE` vouches for.",
        shown_default="none: the service token is needed",
    ),
    Setting(
        "peer_proof",
        one_of("either", "certificate", "both"),
        "either",
        "What opens internal services to other processes: such a name or the service token (`either`), only the name, "
        "or `both`.",
    ),
    Setting(
        "insecure",
        switch,
        False,
        "`true` allows, with a warning, `JUNCTOR_AUTH=off` or no TLS on an address that is not loopback.",
    ),
    Setting("log_level", one_of(*LEVELS), "info", "`debug`, `info`, `warning` or `error`."),
    Setting(
        "log_format",
        one_of(*FORMATS),
        "auto",
        "`text` or `json`; `auto` is text on a terminal, else JSON.",
    ),
    Setting(
        "log_sample",
        share,
        0.0,
        "Share of the inference requests that went well of which a line is logged; `1`: each. Others always are.",
    ),
    Setting(
        "otlp_endpoint",
        collector_url,
        None,
        "OpenTelemetry collector that takes traces: `http://host:4317` (gRPC), `http://host:4318` (HTTP).",
        shown_default="`OTEL_EXPORTER_OTLP_ENDPOINT`; off",
        conventions=("OTEL_EXPORTER_OTLP_ENDPOINT",),
    ),
    Setting(
        "otlp_protocol",
        one_of("grpc", "http/protobuf"),
        None,
        "How it is spoken to: `grpc` or `http/protobuf`.",
        shown_default="`OTEL_EXPORTER_OTLP_PROTOCOL`; gRPC on port 4317, else HTTP",
        conventions=("OTEL_EXPORTER_OTLP_PROTOCOL",),
    ),
    Setting(
        "otlp_headers",
        collector_headers,
        None,
        "Header fields for it, `name=value` divided by commas; never shown.",
        shown_default="`OTEL_EXPORTER_OTLP_HEADERS`; none",
        conventions=("OTEL_EXPORTER_OTLP_HEADERS",),
    ),
    Setting(
        "trace_sample",
        share,
        1.0,
        "Share of the requests without a trace of their caller's that begin one.",
        shown_default="`OTEL_TRACES_SAMPLER_ARG`; 1",
        conventions=("OTEL_TRACES_SAMPLER_ARG",),
    ),
)

CONFIG_ENV: Final = "JUNCTOR_CONFIG"
CLIENT_ENVS: Final[Mapping[str, tuple[str, str]]] = {
    "JUNCTOR_BASE_URL": ("`http://localhost:8080`", "CLI and SDK: the HTTP edge."),
    "JUNCTOR_WORKSPACE": ("`default`", "CLI and SDK: workspace."),
    "JUNCTOR_ACCESS_TOKEN": ("–", "CLI and SDK: access token."),
    "JUNCTOR_GRPC_TARGET": ("host of the base URL, port 50051", "CLI and SDK: gRPC target for typed calls."),
    "JUNCTOR_TLS_CA_FILE": (
        "`SSL_CERT_FILE`, else public authorities",
        "CLI and SDK: PEM file of the authorities that vouch for this junctor, over HTTPS and gRPC.",
    ),
    "JUNCTOR_OWNER": ("–", "CLI: the configuration that `junctor apply` keeps resources by."),
    "JUNCTOR_CONFIG_FILE": ("`~/.config/junctor/config.toml`", "CLI and SDK: settings file."),
}
"""Read by the client side alone: variable → default, meaning."""
