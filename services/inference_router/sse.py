"""Rewrites the model name in a stream of server-sent events; every other byte passes as it came.

Lines end in LF, CR LF or CR and may be cut anywhere. Only lines that start with ``data:`` are looked into. An event
whose object is spread over several of them is held until it ends. Of a line or event of more than 1 MiB only the
first 128 KiB are rewritten, and no more is held.

The *parse path* decodes a line and rewrites ``model``, ``message.model`` and ``response.model``, never another
key. From a rewritten top-level ``model`` it learns the spelling (``"model":"up"``) and the line's start up to
there. Later lines take a shorter way to the same bytes if ``"model"`` occurs in them just once and

- they have the learned start: same start, same position (about 0.4 µs for a read of one event); or
- the learned spelling stands where only one ``{`` and no ``[`` came before: that is the top level as well.

Both leave two things unproven: that the rest of the line, which ends in ``}``, is JSON, and that no second ``model``
is spelled with ``\\u`` escapes. Neither can make them touch a key that is nested.
"""

from __future__ import annotations

import re

from services.inference_router.rewrite import BOM, is_text, rewrite_fields, rewrite_found
from services.inference_router.splice import NOT_JSON, Fields, decode_fields, encode, member_span
from services.inference_router.sse_lines import rewrite_lines
from services.inference_router.usage import merge_usage, read_usage
from services.runtime.exchange import Usage

LINE_LIMIT = 1024 * 1024
"""Bytes of a line, its end not counted, above which it passes unrewritten."""

_DATA = b"data:"
_MODEL = b'"model"'
_USAGE = b'"usage"'
_ESCAPED_LETTER = b"\\u006"
_BRACE = 0x7D
_CR = 0x0D
_BLANK_LINES = (b"\n", b"\r\n", b"\r")
_BACKSLASH = 0x5C
_FINAL_RESPONSE = re.compile(rb"response\.(?:completed|incomplete|failed)").search
_FINAL_TYPES = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed"})


class SseRewriter:
    """Shows ``shown`` where events say ``served``; bytes go in by :meth:`feed` and come back out.

    If both are equal, every byte passes at once and only the notes are taken.
    """

    __slots__ = (
        *(
            "_early_usage",
            "_event",
            "_event_length",
            "_first_line",
            "_held",
            "_held_length",
            "_late_usage",
            "_length",
            "_new",
            "_open",
        ),
        *("_passive", "_prefix", "_replacement", "_served", "_shown", "_spelling", "done_seen", "started"),
    )

    def __init__(self, served: str, shown: str) -> None:
        self._served = served
        self._shown = encode(shown)
        self._passive = served == shown
        self._prefix = b""
        """Start of a line up to the end of its rewritten value, as received; empty: not learned."""
        self._length = 0
        self._new = b""
        self._spelling = b""
        self._replacement = b""
        self._held: list[bytes] = []
        self._held_length = 0
        self._open = False
        """The start of the current line has passed already."""
        self._event: list[bytes] = []
        """Lines of an event whose first ``data:`` line is the start of an object. Meanwhile nothing is learned."""
        self._event_length = 0
        self._first_line = True
        self._early_usage = b""
        self._late_usage = b""
        self.started = False
        """A ``data:`` line was seen."""
        self.done_seen = False
        """The provider said that the answer is complete: ``[DONE]``, ``message_stop`` or ``response.completed``."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the stream; return those that may be sent now."""
        prefix = self._prefix
        # The common read: one line of data with its end. What was learned saves looking at its start again.
        if prefix and data.startswith(prefix) and not self._held and not self._open:
            size = len(data)
            end = data.find(b"\n", self._length)
            closed = size - 2 <= end and end > 0 and (data[end - 1] == _BRACE or data[end - 1] == _CR)
            if closed and size <= LINE_LIMIT and data.find(_MODEL, self._length) < 0:
                if data.find(_USAGE, self._length) > 0:
                    self._note_usage(data)
                return data if self._passive else self._new + data[self._length :]
        out = self._lines(data)
        return data if self._passive else out

    def finish(self) -> bytes:
        """Return what is still held. Call once, at the end of the stream."""
        rest = b"".join(self._held)
        self._held.clear()
        # A stream that broke inside this line leaves no JSON: only the parse path may touch it.
        self._prefix = b""
        out = self._line(rest) if rest else b""
        if self._event:
            out += self._end_event()
        return b"" if self._passive else out

    @property
    def usage(self) -> Usage | None:
        """What the provider reported so far: the last report, completed from the first. Parses at each call."""
        late = self._usage_in(self._late_usage)
        early = self._usage_in(self._early_usage)
        return merge_usage(early, late)

    def _lines(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        if not lines:
            return b""
        out = []
        if self._held or self._open:
            lines[0] = self._continued(lines[0])
            out.append(lines.pop(0))
        tail = lines.pop() if lines and lines[-1][-1:] not in b"\r\n" else b""
        out += [self._line(line) for line in lines]
        if tail:
            out.append(self._tail(tail))
        return b"".join(out)

    def _continued(self, part: bytes) -> bytes:
        """Take more of a line whose start is held or has passed."""
        ended = part[-1:] in b"\r\n"
        if self._open:
            self._open = not ended
            return part
        self._held.append(part)
        self._held_length += len(part)
        if not ended:
            return self._release() if self._held_length > LINE_LIMIT else b""
        line = b"".join(self._held)
        self._held.clear()
        return self._line(line)

    def _tail(self, tail: bytes) -> bytes:
        """Hold the start of a line, or let it pass if it cannot need a rewrite."""
        self._held.append(tail)
        self._held_length = len(tail)
        may_be_data = self._first_line or tail.startswith(_DATA) or _DATA.startswith(tail) or bool(self._event)
        return b"" if may_be_data and len(tail) <= LINE_LIMIT else self._release()

    def _release(self) -> bytes:
        out = b"".join(self._held)
        self._held.clear()
        if len(out) > LINE_LIMIT:
            out = self._rewrite_early(out, len(BOM) if self._first_line and out.startswith(BOM) else 0)
        self._open = True
        self._first_line = False
        return b"".join((self._end_event(), out)) if self._event else out

    def _rewrite_early(self, line: bytes, start: int) -> bytes:
        """Rewrite the start of a line that is too long or too deep to be read whole; ``data:`` is at ``start``."""
        if self._passive or not line.startswith(_DATA, start):
            return line
        start += len(_DATA)
        return line[:start] + rewrite_found(line[start:], self._served, self._shown)

    def _line(self, line: bytes) -> bytes:
        """Rewrite one whole line."""
        size = len(line)
        if self._event:
            return self._event_line(line)
        if self._prefix and size <= LINE_LIMIT and line.endswith((b"}\n", b"}\r\n", b"}\r")):
            if not line.startswith(self._prefix):
                self._find_spelling(line)
            if line.startswith(self._prefix) and line.find(_MODEL, self._length) < 0:
                if line.find(_USAGE, self._length) > 0:
                    self._note_usage(line)
                return self._new + line[self._length :]
        start = len(BOM) if self._first_line and line.startswith(BOM) else 0
        self._first_line = False
        if not line.startswith(_DATA, start):
            return line
        if size > LINE_LIMIT and len(line.rstrip(b"\r\n")) > LINE_LIMIT:
            return self._rewrite_early(line, start)
        self.started = True
        return self._data_line(line, start + len(_DATA))

    def _find_spelling(self, line: bytes) -> None:
        """Take the start of ``line`` as the new prefix if the learned spelling stands at its top level."""
        at = line.find(self._spelling)
        if at > len(_DATA) and line[at - 1] != _BACKSLASH and line.startswith(_DATA):
            head = line[:at]
            if head.count(b"{") == 1 and b"[" not in head and _MODEL not in head and _USAGE not in head:
                self._set_prefix(head + self._spelling, head + self._replacement)

    def _set_prefix(self, prefix: bytes, new: bytes) -> None:
        self._prefix = prefix
        self._length = len(prefix)
        self._new = new

    def _data_line(self, line: bytes, start: int) -> bytes:
        rewrites = not self._passive and (_MODEL in line or _ESCAPED_LETTER in line)
        if _USAGE in line:
            self._note_usage(line)
        ends = not self.done_seen and (b"message_stop" in line or _FINAL_RESPONSE(line) is not None)
        if not (ends or rewrites):
            if len(line) < start + 16 and line[start:].strip() == b"[DONE]":
                self.done_seen = True
            elif line[-2:] != b"}\n" and line.rstrip()[-1:] != b"}" and self._begins_event(line, start):
                return b""
            return line
        payload = line[start:]
        try:
            fields = decode_fields(payload)
            if ends and "type" in fields:
                self.done_seen = any(is_text(fields["type"], name) for name in _FINAL_TYPES)
            return self._rewrite(line, start, fields) if rewrites else line
        except RecursionError:  # too deep to be decoded, but JSON all the same
            return self._rewrite_early(line, start - len(_DATA)) if rewrites else line
        except NOT_JSON:
            return b"" if self._begins_event(line, start) else line

    def _begins_event(self, line: bytes, start: int) -> bool:
        """Hold a line that may be the start of an object with more ``data:`` lines behind it."""
        payload = line[start:]
        if self._passive or start != len(_DATA) or not payload.endswith((b"\n", b"\r")):
            return False
        if not payload.lstrip().startswith(b"{"):
            return False
        self._event = [line]
        self._event_length = len(line)
        self._set_prefix(b"", b"")
        return True

    def _event_line(self, line: bytes) -> bytes:
        """Take one more line of the event that is held; a blank one ends it."""
        half = line == b"\n" and self._event[-1].endswith(b"\r")  # its CR came before it
        self._event.append(line)
        self._event_length += len(line)
        if half or (line not in _BLANK_LINES and self._event_length <= LINE_LIMIT):
            return b""
        return self._end_event()

    def _end_event(self) -> bytes:
        lines, self._event = self._event, []
        out, whole = rewrite_lines(lines, self._served, self._shown)
        if _USAGE in whole:
            self._note_usage(_DATA + whole)
        return out

    def _rewrite(self, line: bytes, start: int, fields: Fields) -> bytes:
        payload = line[start:]
        fresh = rewrite_fields(payload, fields, self._served, self._shown)
        if fresh == payload:
            return line
        span = member_span(payload, fields, "model") if "model" in fields else None
        if span is not None and start == len(_DATA) and is_text(fields["model"], self._served):
            self._learn(line, start + span[0], start + span[1])
        return line[:start] + fresh

    def _learn(self, line: bytes, start: int, end: int) -> None:
        key = line.find(_MODEL)
        if not 0 <= key < start or line.count(_MODEL) != 1 or _USAGE in line[:end]:
            return
        self._spelling = line[key:end]
        self._replacement = line[key:start] + self._shown
        self._set_prefix(line[:end], line[:start] + self._shown)

    def _note_usage(self, lines: bytes) -> None:
        if not self._early_usage:
            self._early_usage = lines
        self._late_usage = lines

    def _usage_in(self, lines: bytes) -> Usage | None:
        for line in reversed(lines.splitlines()):
            if line.startswith(_DATA) and (usage := read_usage(line[len(_DATA) :])) is not None:
                return usage
        return None
