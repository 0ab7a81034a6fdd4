"""What a provider may be written with. Every bad field is named at once; nothing here looks anything up."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import SplitResult, urlsplit

from cryptography import x509

from junctor.errors import AddressRefused, InvalidField
from junctor.v1 import provider_registry_pb2 as pb
from services.runtime import auth_header
from services.runtime.addresses import AddressPolicy, is_metadata_name, literal_address
from services.runtime.header_names import CREDENTIALS, TOKEN, is_reserved
from services.runtime.validation import Violations

URL_LIMIT = 2_048
HEADERS_LIMIT = 64
HEADER_VALUE_LIMIT = 8 * 1024
MODELS_LIMIT = 5_000
"""Models of one provider: what discovery takes, and what may be named by hand."""
MODEL_ID_LIMIT = 512
"""Characters of an upstream id."""
MESSAGE_LIMIT = 4_096
"""Characters of a ``status_message`` that is set by hand."""
_ID_RULE = f"1 to {MODEL_ID_LIMIT} characters, without NUL"
_TEXT_LIMIT = 255
_PEM_LIMIT = 256 * 1024
_LONGEST_TIMEOUT_MS = 24 * 3600 * 1000

_VISIBLE = re.compile(r"[\x21-\x7e]*")
_HOST = re.compile(r"[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\]")
_PATH = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_ENCODED_DANGER = re.compile(r"%(?:2[Ff35]|3[Ff]|5[Cc]|[01][0-9A-Fa-f]|7[Ff])")
"""Encoded slash, backslash, ``?``, ``#``, ``%`` and control characters: some server behind may decode them."""
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")


def check_provider(provider: pb.Provider, fields: Collection[str], *, new: bool, policy: AddressPolicy) -> None:
    """Check the ``fields`` that are to be written.

    Raises:
        MalformedRequest: a credential in the extra headers; the text names every other bad field, too.
        InvalidField: with every bad field.
    """
    bad = Violations()
    if new:
        bad.name("name", provider.name)
    if "host_url" in fields:
        _check_host_url(bad, provider.host_url, policy)
    _check_texts(bad, provider, fields)
    _check_bodies_and_headers(bad, provider, fields)
    _check_models(bad, provider, fields)
    _check_paths(bad, provider, fields)
    _check_connection(bad, provider, fields, policy)
    bad.done()


def check_status(request: pb.UpdateProviderStatusRequest) -> None:
    """Check what is set by hand. Raises InvalidField with every bad field."""
    bad = Violations()
    if request.HasField("status") and request.status not in pb.ProviderStatus.values():
        bad.add("status", "must be a status of a provider")
    bad.text("status_message", request.status_message, limit=MESSAGE_LIMIT)
    bad.text("model_deployment_id", request.model_deployment_id, limit=_TEXT_LIMIT)
    _check_served_models(bad, request.workspace, request.served_models.values)
    bad.done()


def _check_served_models(bad: Violations, workspace: str, served: Iterable[pb.ServedModelMapping]) -> None:
    for index, mapping in enumerate(served):
        home, _, entity = mapping.model_entity_id.partition("/")
        if index >= MODELS_LIMIT:
            bad.add("served_models", f"must be at most {MODELS_LIMIT}")
            break
        if home != workspace:
            bad.add(f"served_models[{index}].model_entity_id", f"must begin with '{workspace}/'")
        bad.name(f"served_models[{index}].model_entity_id", entity)
        if not _is_id(mapping.served_model_name):
            bad.add(f"served_models[{index}].served_model_name", f"must have {_ID_RULE}")


def host_url_rule(url: str, policy: AddressPolicy) -> str | None:
    """Return the rule that a base URL breaks, or None."""
    if len(url) > URL_LIMIT:
        return f"must be at most {URL_LIMIT} characters"
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        return "must be a URL of visible ASCII characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "must be an absolute http or https URL with a port of 1 to 65535"
    return _parts_rule(url, parts, port) or _host_rule(parts.hostname or "", policy)


def _parts_rule(url: str, parts: SplitResult, port: int | None) -> str | None:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be an absolute http or https URL"
    if "@" in parts.netloc:
        return "must not contain a user name or password"
    host = parts.netloc.rsplit(":", 1)[0] if port is not None or parts.netloc.endswith(":") else parts.netloc
    if not _HOST.fullmatch(host):
        return "must have a host name or an address as its host"
    if port == 0:
        return "must have a port of 1 to 65535"
    if "?" in url or "#" in url:
        return "must not have a query or a fragment"
    return _path_rule(parts.path)


def _host_rule(host: str, policy: AddressPolicy) -> str | None:
    address = literal_address(host)
    if address is not None:
        try:
            policy.check(address)
        except AddressRefused as error:
            return error.message
        return None
    if is_metadata_name(host):
        return "must not be the name of a metadata service, nor carry such an address"
    return None


def _check_host_url(bad: Violations, url: str, policy: AddressPolicy) -> None:
    if (rule := host_url_rule(url, policy)) is not None:
        bad.add("host_url", rule)


def _check_texts(bad: Violations, provider: pb.Provider, fields: Collection[str]) -> None:
    if "description" in fields:
        bad.description(provider.description)
    if "labels" in fields:
        bad.labels(provider.labels)
    if "project" in fields:
        bad.text("project", provider.project, limit=_TEXT_LIMIT)
    if "model_deployment_id" in fields:
        bad.text("model_deployment_id", provider.model_deployment_id, limit=_TEXT_LIMIT)
    if "api_key_secret_name" in fields:
        bad.text("api_key_secret_name", provider.api_key_secret_name, limit=_TEXT_LIMIT)
    if "auth_header_format" in fields and provider.HasField("auth_header_format"):
        _check_auth_header(bad, provider.auth_header_format)


def _check_auth_header(bad: Violations, text: str) -> None:
    try:
        auth_header.parse(text)
    except InvalidField as error:
        for violation in error.violations:
            bad.add(violation.field, violation.rule)


def _check_bodies_and_headers(bad: Violations, provider: pb.Provider, fields: Collection[str]) -> None:
    for field in ("default_extra_body", "required_extra_body"):
        if field in fields and provider.HasField(field):
            bad.json(field, getattr(provider, field))
    for field in ("default_extra_headers", "required_extra_headers"):
        if field in fields:
            _check_headers(bad, field, getattr(provider, field).values)


def _check_headers(bad: Violations, field: str, headers: Mapping[str, str]) -> None:
    if len(headers) > HEADERS_LIMIT:
        bad.add(field, f"must be at most {HEADERS_LIMIT} headers")
    seen: set[str] = set()
    for name, value in sorted(headers.items()):
        where, lower = f"{field}.{name}", name.lower()
        if (bare := lower.strip()) in CREDENTIALS:
            text = f"{bare.capitalize()} header is not allowed in {field}."
            bad.malformed(f"{text} Use api_key_secret_name for authentication.")
        elif not TOKEN.fullmatch(name):
            bad.add(where, "must be a header name of letters, digits and !#$%&'*+-.^_`|~")
        elif is_reserved(lower):
            bad.add(where, "is set by the gateway alone")
        if lower in seen:
            bad.add(where, "is named twice")
        seen.add(lower)
        if len(value) > HEADER_VALUE_LIMIT or (value and not _FIELD_VALUE.fullmatch(value)):
            bad.add(where, f"must have a value of visible ASCII of at most {HEADER_VALUE_LIMIT} bytes")


def _check_models(bad: Violations, provider: pb.Provider, fields: Collection[str]) -> None:
    lists = {"enabled_models": provider.enabled_models.values, "static_models": provider.static_models.values}
    for field in lists.keys() & set(fields):
        if len(lists[field]) > MODELS_LIMIT:
            bad.add(field, f"must be at most {MODELS_LIMIT} ids")
        elif not all(_is_id(model) for model in lists[field]):
            bad.add(field, f"must hold ids of {_ID_RULE}")


def _is_id(text: str) -> bool:
    return 1 <= len(text) <= MODEL_ID_LIMIT and "\0" not in text


def _check_paths(bad: Violations, provider: pb.Provider, fields: Collection[str]) -> None:
    if "api_base_path" in fields and provider.api_base_path and not provider.api_base_path.startswith("/"):
        bad.add("api_base_path", "must be empty or begin with '/'")
    for field in ("api_base_path", "models_path"):
        if field in fields and (rule := _path_rule(getattr(provider, field))) is not None:
            bad.add(field, rule)
    if "models_path" in fields and provider.HasField("models_path") and not provider.models_path.strip("/"):
        bad.add("models_path", "must not be empty")


def _check_connection(bad: Violations, provider: pb.Provider, fields: Collection[str], policy: AddressPolicy) -> None:
    if "proxy" in fields and provider.proxy and (rule := host_url_rule(provider.proxy, policy)) is not None:
        bad.add("proxy", rule)
    if "timeouts" in fields:
        for part, milliseconds in provider.timeouts.ListFields():
            if not 1 <= milliseconds <= _LONGEST_TIMEOUT_MS:
                bad.add(f"timeouts.{part.name}", f"must be 1 to {_LONGEST_TIMEOUT_MS}")
    if "tls" in fields:
        _check_tls(bad, provider.tls)
    if "admin_state" in fields and provider.admin_state not in pb.AdminState.values():
        bad.add("admin_state", "must be ACTIVE, DRAINING or DISABLED")


def _path_rule(path: str) -> str | None:
    if len(path) > URL_LIMIT or not _PATH.fullmatch(path) or _ENCODED_DANGER.search(path):
        return f"must have a path of at most {URL_LIMIT} URL characters, without query and fragment"
    inner = path.removeprefix("/").rstrip("/")
    segments = re.sub("%2e", ".", inner, flags=re.IGNORECASE).split("/")
    if inner and "" in segments:
        return "must not have an empty segment in its path"
    if any(segment.partition(";")[0] in (".", "..") for segment in segments):
        return "must not have '.' or '..' as a segment of its path"
    return None


def _check_tls(bad: Violations, tls: pb.ProviderTls) -> None:
    if tls.HasField("ca_bundle_pem") and not _is_pem(tls.ca_bundle_pem):
        bad.add("tls.ca_bundle_pem", f"must be PEM certificates of at most {_PEM_LIMIT} characters")
    if tls.HasField("client_certificate_secret_name"):
        bad.text("tls.client_certificate_secret_name", tls.client_certificate_secret_name, limit=_TEXT_LIMIT)
    if tls.server_name and not (_HOST.fullmatch(tls.server_name) and len(tls.server_name) <= _TEXT_LIMIT):
        bad.add("tls.server_name", "must be a host name")


def _is_pem(text: str) -> bool:
    if len(text) > _PEM_LIMIT:
        return False
    try:
        return bool(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        return False
