"""Makes the request to one provider out of a caller's: target, headers, body, timers."""

from __future__ import annotations

from dataclasses import dataclass

from services.inference_router import multipart
from services.inference_router.headers import field_of, request_headers
from services.inference_router.rewrite import BodyFacts, merge_body, read_body, replace_model
from services.inference_router.snapshot import Candidate, Provider
from services.inference_router.target import join_target
from services.inference_router.upstream import encode_start
from services.inference_router.upstream_types import Timers, UpstreamRequest
from services.runtime.exchange import Call, KnownHeaders, Route


@dataclass(slots=True)
class CallBody:
    """A caller's body, read once."""

    content: bytes
    facts: BodyFacts | None = None
    """Set if it is a JSON object that routes."""
    form: multipart.FormFacts | None = None
    """Set if it is a multipart form that routes."""

    @property
    def model(self) -> str | None:
        """The model that the body names."""
        if self.form is not None:
            return self.form.model
        return self.facts.model if self.facts is not None else None

    def with_model(self, upstream_id: str, provider: Provider) -> bytes:
        """Return the body for one provider: its model, and what the provider adds."""
        if self.form is not None:
            return multipart.replace_form_model(self.content, self.form, upstream_id)
        if self.facts is None:
            return self.content
        if provider.default_extra_body or provider.required_extra_body:
            return merge_body(
                self.content,
                default_extra=provider.default_extra_body,
                required_extra=provider.required_extra_body,
                model=upstream_id,
            )
        return replace_model(self.content, self.facts, upstream_id)


def read_call_body(call: Call) -> CallBody:
    """Read the body of a call that is routed by model. Raises MalformedRequest."""
    if not call.body and call.route is Route.MODEL:
        return CallBody(b"")
    kind = content_type(call)
    boundary = None if kind == b"application/json" else multipart.boundary_of(kind)
    if boundary is not None:
        return CallBody(call.body, form=multipart.read_form(call.body, boundary))
    return CallBody(call.body, facts=read_body(call.body, model_required=call.route is not Route.MODEL))


def content_type(call: Call) -> bytes:
    """Return the content type that the caller gave."""
    headers = call.headers
    if type(headers) is not KnownHeaders:
        return field_of(headers, b"content-type")
    if headers.content_type is None:
        headers.content_type = field_of(headers, b"content-type")
    return headers.content_type


@dataclass(frozen=True, slots=True)
class RequestMaker:
    """Makes the requests of all calls; ``timers`` are the router's own where a provider has none."""

    timers: Timers
    allow: frozenset[bytes] | None = None
    """The only header fields of a caller that pass, in lower case; None: all that may."""

    def routed(self, call: Call, body: CallBody, candidate: Candidate) -> UpstreamRequest:
        """Make the request of a call that was routed by model."""
        return self._make(call, candidate.provider, body.with_model(candidate.upstream_id, candidate.provider), True)

    def pinned(self, call: Call, provider: Provider) -> UpstreamRequest:
        """Make the request of a call by provider: the body passes untouched unless the provider adds to it."""
        content = call.body
        if content and (provider.default_extra_body or provider.required_extra_body):
            content = merge_body(
                content, default_extra=provider.default_extra_body, required_extra=provider.required_extra_body
            )
        return self._make(call, provider, content, False)

    def _make(self, call: Call, provider: Provider, body: bytes, identity: bool) -> UpstreamRequest:
        headers = call.headers
        if type(headers) is not KnownHeaders:
            return self._fresh(call, provider, body, identity)
        known = headers.upstream.get(provider.ref)
        if known is None or known[0] is not provider:  # a provider that changed is another object
            request = self._fresh(call, provider, body, identity)
            request.start = encode_start(request)
            headers.upstream[provider.ref] = (provider, request)
            return request
        made: UpstreamRequest = known[1]
        timers = self._timers(call, provider)
        return UpstreamRequest(made.origin, made.method, made.target, made.headers, body, timers, made.start)

    def _fresh(self, call: Call, provider: Provider, body: bytes, identity: bool) -> UpstreamRequest:
        return UpstreamRequest(
            origin=provider.origin,
            method=call.method.encode(),
            target=join_target(provider.base, call.path, call.query),
            headers=request_headers(
                call.headers,
                default_extra=provider.default_extra_headers,
                required_extra=provider.required_extra_headers,
                auth=provider.auth,
                accept_identity=identity,
                allow=self.allow,
            ),
            body=body,
            timers=self._timers(call, provider),
        )

    def _timers(self, call: Call, provider: Provider) -> Timers:
        own = provider.timeouts
        timers = self.timers
        if not own.connect is own.first_byte is own.idle is None:
            timers = Timers(
                connect=own.connect or timers.connect,
                first_byte=own.first_byte or timers.first_byte,
                idle=own.idle or timers.idle,
            )
        if not impatient(call):
            return timers
        return Timers(
            connect=_shorter(call.connect_timeout, timers.connect),
            first_byte=_shorter(call.first_byte_timeout, timers.first_byte),
            idle=_shorter(call.idle_timeout, timers.idle),
        )


def impatient(call: Call) -> bool:
    """Tell whether the caller set timers of single attempts."""
    return not (call.connect_timeout is call.first_byte_timeout is call.idle_timeout is None)


def _shorter(asked: float | None, limit: float) -> float:
    return limit if asked is None else min(asked, limit)
