"""One deployment of LiteLLM's ``model_list``: which provider it is a model of, and what it asks for beside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from junctor.declare.imported import Report, as_name
from junctor.declare.litellm_vendors import IMPOSSIBLE, VENDORS, Vendor, split_model

Json = Mapping[str, Any]

ENVIRONMENT: Final = "os.environ/"
_NO_KEY = frozenset(["", "none", "null", "empty", "dummy", "fake", "fake-key", "fake-api-key", "not-needed", "na"])
"""What people write as the key of servers that ask for none, in lower case."""

_BODY = frozenset(
    """temperature top_p max_tokens max_completion_tokens n stop seed presence_penalty user frequency_penalty
    logit_bias logprobs top_logprobs response_format tools tool_choice parallel_tool_calls reasoning_effort top_k min_p
    repetition_penalty thinking dimensions encoding_format service_tier store modalities num_ctx keep_alive
    stream_options""".split()  # noqa: SIM905 - a list of words
)
"""Parameters of the request itself: the caller's win over them, as over a provider's ``default_extra_body``."""

_WHY: Mapping[str, str] = {
    "api_version": "the API version is a query parameter, and junctor sends none of its own; the v1 API is used",
    "max_retries": "how often is junctor's own rule; other targets are tried",
    "num_retries": "how often is junctor's own rule; other targets are tried",
    "mock_response": "junctor invents no answers; see junctor demo-provider",
    "tags": "junctor does not choose targets by tags",
    "drop_params": "junctor passes requests on as they are",
    "additional_drop_params": "junctor passes requests on as they are",
    "cooldown_time": "how long a provider rests is junctor's own rule",
    **dict.fromkeys(
        ("input_cost_per_token", "output_cost_per_token", "input_cost_per_second", "output_cost_per_second"),
        "junctor keeps no prices in this configuration",
    ),
    **dict.fromkeys(
        ("tenant_id", "client_id", "client_secret", "azure_ad_token", "azure_scope", "azure_username"),
        "junctor fetches no tokens from Entra ID; use a key",
    ),
    **dict.fromkeys(("budget_duration", "max_budget"), "junctor keeps no budgets in this configuration"),
}

_UNSET: Final = object()

Variables = Callable[[str], str | None]
"""Gives the value of an environment variable."""


@dataclass(frozen=True, slots=True)
class Key:
    """A provider's key: the variable that holds it, or the text that the file holds (never shown)."""

    variable: str = ""
    literal: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One entry of ``model_list`` that can be a target. ``wildcard``: every model of the provider."""

    place: str
    group: str
    prefix: str
    upstream_id: str
    provider: Json
    """Fields of the provider, without its key."""
    key: Key | None
    params: Json = field(default_factory=dict)
    why: str = ""

    @property
    def wildcard(self) -> bool:
        """Whether every model of the provider is meant."""
        return "*" in self.upstream_id

    @property
    def identity(self) -> str:
        """What deployments of one provider have in common."""
        return json.dumps([self.prefix, self.provider, self.key and [self.key.variable, self.key.literal]])


def read(entry: Any, place: str, report: Report, variables: Variables) -> Deployment | None:
    """Read one entry of ``model_list``; reports what cannot be taken, and returns None for a deployment that cannot."""
    params = entry.get("litellm_params") if isinstance(entry, dict) else None
    group = entry.get("model_name") if isinstance(entry, dict) else None
    model = params.get("model") if isinstance(params, dict) else None
    if not isinstance(group, str) or not isinstance(params, dict) or not isinstance(model, str) or not model:
        report.lost(place, "has no model_name, or no litellm_params.model")
        return None
    place = f"{place} {group}"
    prefix, upstream_id = split_model(model, str(params.get("custom_llm_provider") or ""))
    vendor, why = _vendor(prefix, params)
    if vendor is None:
        report.lost(place, f"{model}: {why}")
        return None
    reader = _Params(place, params, report, variables)
    provider = reader.provider(vendor, prefix)
    if provider is None:
        return None
    key = reader.key(vendor)
    reader.rest()
    told = "; ".join(part for part in (vendor.why, why, reader.why) if part)
    return Deployment(place, group, prefix or "openai", upstream_id, provider, key, params, told)


def _vendor(prefix: str, params: Json) -> tuple[Vendor | None, str]:
    if prefix in IMPOSSIBLE:
        return None, IMPOSSIBLE[prefix]
    if prefix in VENDORS:
        return VENDORS[prefix], ""
    if params.get("api_base") or params.get("base_url"):
        return Vendor(), "taken as an OpenAI-compatible server at its api_base"
    return None, f"junctor knows no address of '{prefix}'" if prefix else "its provider is not named; write it before /"


class _Params:
    """Takes ``litellm_params`` apart, once; what nobody took is reported by :meth:`rest`."""

    def __init__(self, place: str, params: Json, report: Report, variables: Variables) -> None:
        self.why = ""
        self._place, self._params, self._report, self._variables = place, params, report, variables
        self._seen = {"model", "custom_llm_provider", "weight", "order", "rpm", "tpm"}

    def provider(self, vendor: Vendor, prefix: str) -> Json | None:
        """Return the provider's fields, None when its address cannot be known."""
        base = self._take("api_base") or self._take("base_url")
        address = self._resolved(base) if isinstance(base, str) else vendor.host_url
        if not address:
            missing = f"the variable of its api_base, {base}, is not set here" if base else "it has no api_base"
            self._report.lost(self._place, f"{missing}: a provider needs an address")
            return None
        fields: dict[str, Any] = {"host_url": self._address(address, vendor, prefix, given=bool(base))}
        if vendor.api_base_path is not None and not base:
            fields["api_base_path"] = vendor.api_base_path
        if vendor.auth_header_format:
            fields["auth_header_format"] = vendor.auth_header_format
        if vendor.headers:
            fields["default_extra_headers"] = dict(vendor.headers)
        return {**fields, **self._headers(), **self._bodies(), **self._limits()}

    def key(self, vendor: Vendor) -> Key | None:
        """Return where the key is; None when there is none."""
        given = self._take("api_key")
        if given is None:
            if vendor.variable and vendor.host_url and not self._params.get("api_base"):
                return Key(variable=vendor.variable)
            return None
        text = str(given)
        if text.startswith(ENVIRONMENT):
            return Key(variable=text.removeprefix(ENVIRONMENT))
        if text.strip().lower() in _NO_KEY:
            return None
        return Key(literal=text)

    def rest(self) -> None:
        """Report what nothing was made of."""
        for name, value in self._params.items():
            if name in self._seen:
                continue
            if value in (None, False, [], {}):
                self._report.taken(f"{self._place}: {name}", why="is off")
            else:
                self._report.lost(f"{self._place}: {name}", _WHY.get(name, "junctor has no such parameter"))

    def _take(self, name: str) -> Any:
        self._seen.add(name)
        return self._params.get(name)

    def _resolved(self, text: str) -> str:
        return self._variables(text.removeprefix(ENVIRONMENT)) or "" if text.startswith(ENVIRONMENT) else text

    def _address(self, address: str, vendor: Vendor, prefix: str, *, given: bool) -> str:
        trimmed = re.sub(r"/(?:chat/completions|completions|embeddings)/?$", "", address).rstrip("/")
        if trimmed != address.rstrip("/"):
            self.why = "its api_base without the path of one operation"
        if prefix == "azure" and not trimmed.endswith("/openai/v1"):
            return re.sub(r"/openai(?:/.*)?$", "", trimmed) + "/openai/v1"
        if given and vendor.adds_v1 and not trimmed.endswith("/v1"):
            return f"{trimmed}/v1"
        return trimmed + ("/v1" if vendor.adds_v1 and not trimmed.endswith("/v1") else "")

    def _headers(self) -> dict[str, Any]:
        found: dict[str, str] = {}
        for name in ("extra_headers", "headers"):
            for header, value in self._mapping(name).items():
                text = str(value)
                if str(header).lower() in ("authorization", "cookie", "api-key", "x-api-key"):
                    self._report.lost(f"{self._place}: {name}.{header}", "a credential belongs into api_key")
                elif text.startswith(ENVIRONMENT) and not self._resolved(text):
                    self._report.lost(f"{self._place}: {name}.{header}", f"the variable {text} is not set here")
                else:
                    found[str(header).lower()] = self._resolved(text)
        organization = self._take("organization")
        if organization:
            organization = str(organization)
            resolved = self._resolved(organization)
            if resolved:
                found["openai-organization"] = resolved
            else:
                self._report.lost(f"{self._place}: organization", f"the variable {organization} is not set here")
        return {"required_extra_headers": found} if found else {}

    def _bodies(self) -> dict[str, Any]:
        given = {name: self._take(name) for name in sorted(_BODY & self._params.keys())}
        extra = self._mapping("extra_body")
        defaults = {name: self._value(name, value) for name, value in given.items()}
        required = {name: self._value(f"extra_body.{name}", value) for name, value in extra.items()}
        bodies = {"default_extra_body": defaults, "required_extra_body": required}
        known = {kind: {name: v for name, v in body.items() if v is not _UNSET} for kind, body in bodies.items()}
        return {kind: body for kind, body in known.items() if body}

    def _mapping(self, name: str) -> Json:
        given = self._take(name)
        if given and not isinstance(given, dict):
            self._report.lost(f"{self._place}: {name}", "must be a mapping")
        return given if isinstance(given, dict) else {}

    def _value(self, name: str, value: Any) -> Any:
        """Return a value of the request, that of a variable if it names one; ``_UNSET`` when that is not set."""
        if not isinstance(value, str) or not value.startswith(ENVIRONMENT):
            return value
        found = self._variables(value.removeprefix(ENVIRONMENT))
        if found is None:
            self._report.lost(f"{self._place}: {name}", f"the variable {value} is not set here")
            return _UNSET
        return _typed(found)

    def _limits(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        most = self._take("max_parallel_requests")
        if isinstance(most, int) and not isinstance(most, bool) and most > 0:
            made["max_concurrency"] = most
        elif most:
            self._report.lost(f"{self._place}: max_parallel_requests", "must be a whole number above 0")
        timeouts = {}
        for name, timer in (("timeout", "total_ms"), ("stream_timeout", "idle_ms")):
            seconds = self._take(name)
            if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0:
                timeouts[timer] = round(seconds * 1000)
            elif seconds is not None:
                self._report.lost(f"{self._place}: {name}", "must be a number of seconds")
        return {**made, **({"timeouts": timeouts} if timeouts else {})}


def _typed(text: str) -> Any:
    """Read a variable's text as a number or true and false where it is one, as a request's parameters need it."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text


def provider_name(prefix: str) -> str:
    """Return the name of a prefix's first provider."""
    return as_name(prefix.replace("_", "-")) or "provider"
