"""Reads and rewrites JSON bodies: ``model`` and ``stream`` of a request, extra bodies, ``model`` of an answer.

One partial decode per body, byte splices instead of a second serialisation: what is not rewritten keeps every
byte (key order, ``9007199254740993``, ``1.0``, escapes, white space). Server-sent events are in ``sse``.
"""

from __future__ import annotations

import msgspec

from junctor.errors import MalformedRequest
from services.inference_router import json_rules
from services.inference_router.spans import find_members, replace_spans
from services.inference_router.splice import (
    NOT_JSON,
    SCAN_LIMIT,
    Fields,
    add_member,
    decode_fields,
    decode_text,
    encode,
    replace_member,
    splice_member,
)
from services.inference_router.usage import usage_in
from services.runtime.exchange import Usage

WHOLE_LIMIT = 1024 * 1024
"""Bytes up to which a JSON answer is held and rewritten whole."""
EARLY_LIMIT = 64 * 1024
"""Bytes at the start of a larger answer in which its top-level ``model`` is still looked for."""

BOM = b"\xef\xbb\xbf"
PARENTS = ("message", "response")
"""Members of an answer whose own ``model`` is rewritten as well."""

_NO_MODEL = "Could not extract model from openai request: "


class BodyFacts(msgspec.Struct, frozen=True, gc=False):
    """What routing needs of a request body."""

    model: str | None
    """The last ``model``, or None if there is none."""
    stream: bool
    fields: Fields


def read_body(body: bytes, *, model_required: bool = True) -> BodyFacts:
    """Read a request body of the openai, model and plain routes.

    ``model_required`` is false on the model route, which overwrites ``model`` whatever it was. Raises
    :class:`MalformedRequest` for what is not JSON, breaks :mod:`json_rules`, is no object or has no usable
    ``model``; the texts are those of the HTTP contract.
    """
    try:
        fields = json_rules.read_fields(body)
    except msgspec.ValidationError:
        json_rules.check_utf8(body)
        raise MalformedRequest(f"{_NO_MODEL}the body must be a JSON object") from None
    except RecursionError:
        raise json_rules.too_deep() from None
    except UnicodeDecodeError:
        raise json_rules.refuse("not valid UTF-8") from None
    except msgspec.DecodeError as error:
        json_rules.check_utf8(body)
        raise json_rules.refuse(str(error)) from None
    json_rules.check(body, fields)
    stream = fields.get("stream")
    model = _model_of(fields) if model_required else None
    return BodyFacts(model, stream is not None and bytes(stream) == b"true", fields)


def _model_of(fields: Fields) -> str:
    raw = fields.get("model")
    if raw is None:
        raise MalformedRequest(f"{_NO_MODEL}the body has no 'model'")
    try:
        return decode_text(raw)
    except NOT_JSON:
        raise MalformedRequest(f"{_NO_MODEL}'model' must be a string") from None


def replace_model(body: bytes, facts: BodyFacts, new: str) -> bytes:
    """Return ``body`` with its ``model`` set to ``new``, or put first if there was none.

    Every other byte stays as it was; see :func:`splice.replace_member`.
    """
    if "model" in facts.fields:
        return replace_member(body, facts.fields, "model", encode(new))
    return add_member(body, facts.fields, "model", encode(new))


def merge_body(
    body: bytes,
    *,
    default_extra: bytes | None = None,
    required_extra: bytes | None = None,
    model: str | None = None,
) -> bytes:
    """Merge top level by top level: ``default_extra`` < caller < ``model`` < ``required_extra``.

    The extras are JSON objects. The caller's values keep their bytes; space between members is lost when there
    is something to merge. A body that is no JSON object, and one that nothing changes, passes untouched.
    """
    if not (default_extra or required_extra or model is not None):
        return body
    try:
        fields = json_rules.read_fields(body)
    except NOT_JSON:
        return body
    merged = dict(fields)
    if model is not None:
        merged["model"] = msgspec.Raw(encode(model))
    if default_extra:
        for key, value in decode_fields(default_extra).items():
            merged.setdefault(key, value)
    if required_extra:
        merged.update(decode_fields(required_extra))
    if len(merged) == len(fields):
        changed = [key for key, value in merged.items() if fields[key] is not value]
        if not changed:
            return body
        if changed == ["model"]:
            return replace_member(body, fields, "model", bytes(merged["model"]))
    return encode(merged)


class JsonModelRewriter:
    """Shows ``shown`` where a JSON answer says ``served``; bytes go in by :meth:`feed` and come back out.

    Answers up to 1 MiB are held and rewritten whole. Of larger ones only a top-level ``model`` in the first
    64 KiB is rewritten, and the rest streams. What is not JSON passes unchanged.
    """

    __slots__ = ("_held", "_length", "_served", "_shown", "_streams", "fields")

    def __init__(self, served: str, shown: str) -> None:
        self._served = served
        self._shown = shown
        self._held: list[bytes] = []
        self._length = 0
        self._streams = False
        self.fields: Fields = {}
        """The whole answer, decoded; empty before its end, if it is no JSON or was larger than 1 MiB."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the answer; return those that may be sent now."""
        if self._streams:
            return data
        self._held.append(data)
        self._length += len(data)
        if self._length <= WHOLE_LIMIT:
            return b""
        self._streams = True
        body = b"".join(self._held)
        self._held.clear()
        return rewrite_early(body, self._served, self._shown)

    def finish(self) -> bytes:
        """Return what is still held. Call once, at the end of the answer."""
        held = self._held
        if self._streams or not held:
            return b""
        body = held[0] if len(held) == 1 else b"".join(held)
        held.clear()
        try:
            self.fields = fields = decode_fields(body)
        except RecursionError:  # too deep to be decoded, but JSON all the same
            return rewrite_early(body, self._served, self._shown)
        except NOT_JSON:
            return BOM + self._rest_of(body) if body.startswith(BOM) else body
        return body if self._served == self._shown else rewrite_fields(body, fields, self._served, encode(self._shown))

    def _rest_of(self, body: bytes) -> bytes:
        """Return, rewritten, what follows a byte order mark, which readers may ignore (RFC 8259, 8.1)."""
        self._held.append(body[len(BOM) :])
        return self.finish()

    @property
    def usage(self) -> Usage | None:
        """What the provider reported."""
        return usage_in(self.fields)


def rewrite_fields(body: bytes, fields: Fields, served: str, shown: bytes) -> bytes:
    """Set ``model``, ``message.model`` and ``response.model`` to ``shown`` (JSON) where they equal ``served``.

    ``fields`` is ``decode_fields(body)``. Returns the same object if nothing changed.
    """
    model = fields.get("model")
    if model is not None and is_text(model, served):
        fresh = splice_member(body, fields, "model", shown)
        if fresh is None:
            return rewrite_found(body, served, shown)
        body = fresh
        if "message" in fields or "response" in fields:
            fields = decode_fields(body)
    for key in PARENTS:
        raw = fields.get(key)
        if raw is None or bytes(raw)[:1] != b"{":
            continue
        inner = bytes(raw)
        inner_fields = decode_fields(inner)
        model = inner_fields.get("model")
        if model is not None and is_text(model, served):
            value = splice_member(inner, inner_fields, "model", shown)
            fresh = None if value is None else splice_member(body, fields, key, value)
            if fresh is None:
                return rewrite_found(body, served, shown)
            body = fresh
            fields = decode_fields(body)
    return body


def rewrite_found(body: bytes, served: str, shown: bytes, parents: tuple[str, ...] = PARENTS) -> bytes:
    """Do what :func:`rewrite_fields` does for any object, or the start of one, by its brackets: in 128 KiB at most."""
    start = body[:SCAN_LIMIT]
    found = find_members(start, "model", parents)
    return replace_spans(body, [span for span in found if is_text(msgspec.Raw(start[slice(*span)]), served)], shown)


def is_text(raw: msgspec.Raw, text: str) -> bool:
    """Tell whether ``raw`` is the JSON string ``text``, however it is escaped."""
    try:
        return decode_text(raw) == text
    except NOT_JSON:
        return False


def rewrite_early(body: bytes, served: str, shown: str) -> bytes:
    """Rewrite the top-level ``model`` in the first 64 KiB of ``body``, the start of a JSON object."""
    if served == shown:
        return body
    start = len(BOM) if body.startswith(BOM) else 0
    early = rewrite_found(body[start:EARLY_LIMIT], served, encode(shown), parents=())
    return b"".join((body[:start], early, body[EARLY_LIMIT:]))
