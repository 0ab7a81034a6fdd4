"""A provider's event stream as typed events.

``SseParser`` finds events in bytes that may be cut anywhere. ``EventMaker`` turns each chunk into one typed event for
each thing it says; what is not modelled is kept, in ``extra_json`` or as a raw event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from junctor.errors import UpstreamInvalid
from junctor.v1 import inference_pb2 as pb
from junctor.v1 import route_pb2 as route_pb
from services.inference_router.typed_json import Fields, decode, from_json, is_null, object_of

EventT = TypeVar("EventT", pb.ChatCompletionEvent, pb.CompletionEvent)

EVENT_LIMIT = 16 * 1024 * 1024
"""Most bytes of one event; more is not an answer but an attack on memory."""

TEXT_PIECE = 200 * 1000
"""Characters, of at most four bytes, of a text that has to be split for the same reason."""

_TEXTS = ("content", "text", "refusal", "reasoning", "reasoning_content")

RAW_PIECE = 1000 * 1000
"""Bytes of a raw event's data in one message: no streamed message is above 1 MiB."""


_NULL = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its name (empty: a message) and its data lines, joined."""

    name: str
    data: bytes


class SseParser:
    """Incremental parser of ``text/event-stream`` (WHATWG HTML, section 9.2), for lines cut at any byte."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._after_cr = False
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[SseEvent]:
        """Take bytes; return the events that they complete. Raises UpstreamInvalid for one that is too long."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        self._size += len(data)
        lines = data.splitlines()
        if self._rest:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest = []
        if not data.endswith((b"\r", b"\n")):
            self._rest = [lines.pop()]
        events = [event for line in lines if (event := self._line(line)) is not None]
        if self._size > EVENT_LIMIT:
            raise UpstreamInvalid("The provider sent an event that is too long")
        return events

    def flush(self) -> list[SseEvent]:
        """Return the last event of a stream that ended cleanly but without its empty line."""
        return [] if not self._rest and not self._data else self.feed(b"\n\n")

    def _line(self, line: bytes) -> SseEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> SseEvent | None:
        name, data = self._name, self._data
        self._name, self._data, self._size = "", [], 0
        return SseEvent(name, b"\n".join(data)) if data else None


class EventMaker(Generic[EventT]):
    """Turns the chunks of one stream into typed events. ``event`` is the class of those events."""

    def __init__(self, event: type[EventT], route: route_pb.RouteTaken) -> None:
        self._event: type[EventT] = event
        self._route = route
        self._seen: dict[str, bytes] | None = None

    @property
    def begun(self) -> bool:
        """The start event was made."""
        return self._seen is not None

    def begin(self) -> list[EventT]:
        """Return the start event if no chunk has made it yet."""
        return [] if self._seen is not None else [self._start({})]

    def events(self, sse: SseEvent) -> list[EventT]:
        """Return what one event of the provider says; nothing for ``[DONE]``."""
        if sse.data.strip() == b"[DONE]":
            return []
        fields = object_of(sse.data) if sse.name in ("", "message") else None
        if fields is None or (said := self._said(fields)) is None:
            return self.begin() + self._raw(sse)
        envelope = {key: raw for key, raw in fields.items() if key not in ("choices", "usage")}
        if self._seen is None:
            said.insert(0, self._start(envelope))
            return said
        changed = {key: raw for key, raw in envelope.items() if self._seen.get(key) != bytes(raw)}
        if not changed:
            return said
        if not said:
            return self._raw(sse)
        said[0].extra_json = msgspec.json.encode(changed)
        return said

    def whole(self, body: bytes) -> list[EventT]:
        """Return the events of an answer that came whole, from a provider that does not stream."""
        fields = object_of(body)
        choices = decode(fields["choices"], list[Fields]) if fields is not None and "choices" in fields else None
        if fields is None or choices is None:
            raise UpstreamInvalid("The provider's answer is neither an event stream nor an answer of this kind")
        renamed = [{("delta" if k == "message" else k): v for k, v in choice.items()} for choice in choices]
        fields["choices"] = msgspec.Raw(msgspec.json.encode(renamed))
        return self.events(SseEvent("", msgspec.json.encode(fields)))

    def _start(self, envelope: Fields) -> EventT:
        self._seen = {key: bytes(raw) for key, raw in envelope.items()}
        event = self._event()
        event.start.route.CopyFrom(self._route)
        from_json(event.start, envelope)
        return event

    def _raw(self, sse: SseEvent) -> list[EventT]:
        ends = range(RAW_PIECE, max(len(sse.data), 1) + RAW_PIECE, RAW_PIECE)
        return [
            self._event(
                raw=pb.RawEvent(event=sse.name, data=sse.data[end - RAW_PIECE : end], partial=end < len(sse.data))
            )
            for end in ends
        ]

    def _said(self, fields: Fields) -> list[EventT] | None:
        """Return the events of choices and usage; None if the chunk is of another kind or form."""
        choices = decode(fields["choices"], list[Fields] | None) if "choices" in fields else None
        if choices is None and ("usage" not in fields or not is_null(fields.get("choices", _NULL))):
            return None
        if "error" in fields and not is_null(fields["error"]):
            return None
        said: list[EventT] = []
        for choice in choices or ():
            said.extend(self._choice(choice))
        if "usage" in fields and not is_null(fields["usage"]):
            usage = object_of(fields["usage"])
            if usage is None:
                return None
            event = self._event()
            event.usage.SetInParent()
            from_json(event.usage, usage)
            said.append(event)
        return said

    def _choice(self, choice: Fields) -> Iterator[EventT]:
        index = _take(choice, "index", int) or 0
        reason = _take(choice, "finish_reason", str)
        event = self._event()
        fits = self._delta(event, choice)
        if fits or reason is None:
            event.delta.index = index
            _keep(event.delta, choice)
            yield from _in_pieces(event)
        if reason is not None:
            finish = pb.StreamFinish(index=index, reason=reason)
            if choice and not fits:
                finish.extra_json = msgspec.json.encode(choice)
            yield self._event(finish=finish)

    def _delta(self, event: EventT, choice: Fields) -> bool:
        """Read what the choice adds, leaving in ``choice`` what is not modelled; tell whether it adds anything."""
        delta: Any = event.delta
        raw = choice.pop("delta", None)
        fields = object_of(raw) if raw is not None and not is_null(raw) else {}
        if fields is None and raw is not None:
            choice["delta"] = raw
            fields = {}
        if isinstance(event, pb.CompletionEvent):
            fields = {"text": choice.pop("text")} if "text" in choice else {}
        from_json(delta, fields or {})
        logprobs = choice.pop("logprobs", None)
        if logprobs is not None and not is_null(logprobs):
            delta.logprobs = bytes(logprobs)
        return bool(delta.ListFields())


def _in_pieces(event: EventT) -> Iterator[EventT]:
    """Yield the event; of one that is too large, the long texts follow in events of their own."""
    if event.ByteSize() <= RAW_PIECE:
        yield event
        return
    delta: Any = event.delta
    kind, rest = type(event), []
    for name in _TEXTS:
        if name in delta.DESCRIPTOR.fields_by_name and len(text := getattr(delta, name)) > TEXT_PIECE:
            setattr(delta, name, "")
            rest += [kind(delta=type(delta)(index=delta.index, **{name: piece})) for piece in _pieces(text)]
    for call in delta.tool_calls if isinstance(delta, pb.ChatDelta) else ():
        if len(text := call.function.arguments) > TEXT_PIECE:
            call.function.arguments = ""
            for piece in _pieces(text):
                part = pb.ToolCall(index=call.index, function=pb.FunctionCall(arguments=piece))
                rest.append(kind(delta=type(delta)(index=delta.index, tool_calls=[part])))
    yield event
    yield from rest


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + TEXT_PIECE] for start in range(0, len(text), TEXT_PIECE))


def _take(fields: Fields, key: str, kind: Any) -> Any:
    """Take a field out if it is of that kind, or null; leave it otherwise."""
    raw = fields.get(key)
    if raw is None:
        return None
    value = decode(raw, kind)
    if value is not None or is_null(raw):
        del fields[key]
    return value


def _keep(delta: pb.ChatDelta | pb.CompletionDelta, choice: Fields) -> None:
    if not choice:
        return
    if isinstance(delta, pb.ChatDelta):
        delta.choice_extra_json = msgspec.json.encode(choice)
    else:
        delta.extra_json = msgspec.json.encode(choice)
