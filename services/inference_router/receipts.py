"""Receipts: a call's own answer says what it was decided by, completely enough to decide it again.

Only a call that asks for one pays for it: its sink is wrapped. Over HTTP the receipt is a comment before the end of
an event stream, and the field ``x-junctor-receipt`` of every other answer and error; over gRPC it is in the verdict,
and in the metadata of an error. A call that failed before there was anything to decide has none.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from junctor import names
from junctor.errors import FieldViolation, InvalidField, JunctorError
from junctor.v1 import inference_router_pb2 as pb
from junctor.v1 import receipt_pb2
from services.inference_router.resolution import Resolution
from services.inference_router.routing import Conditions
from services.runtime.exchange import Attempt, Head, Outcome, Sink, Source

FIELD = b"x-junctor-receipt"
_BODYLESS = frozenset({204, 304})
COMMENT = b": junctor-receipt "
METADATA = "receipt"
"""Metadata of an error: the receipt as text."""
MOST_TEXT = 4096
"""Characters of a receipt in an error: gRPC clients take 8 KiB of trailers in all. A longer one is left out."""
MOST_BYTES = 1024 * 1024
"""Of a receipt, unpacked: far above that of a thousand candidates."""


def record(
    request_id: str, decision: pb.ExplainRouteResponse, found: Resolution | None, conditions: Conditions | None
) -> receipt_pb2.Receipt:
    """Write down a decision before its first attempt; without a resolution it is a call by provider."""
    receipt = receipt_pb2.Receipt(request_id=request_id, junctor_version=version("junctor"), decision=decision)
    if found is None or conditions is None:
        return receipt
    receipt.seed, receipt.turn, receipt.session_id = conditions.seed, conditions.turn, conditions.session
    for group in found.groups:
        virtual_model = names.join(group.virtual_model.workspace, group.virtual_model.name)
        written = receipt.groups.add(virtual_model=virtual_model, policy=group.policy.value)
        for candidate in group.candidates:
            written.candidates.add(
                provider=candidate.provider.ref,
                upstream_model=candidate.upstream_id,
                entity=candidate.entity,
                weight=candidate.weight,
                tier=candidate.tier,
                outstanding=conditions.loads.get(candidate.key, 0),
                returns_at=conditions.out.get(candidate.key),
                full=candidate.provider.ref in conditions.full,
            )
    return receipt


def pack(receipt: receipt_pb2.Receipt) -> bytes:
    """Write a receipt as text for HTTP."""
    return _packed(receipt.SerializeToString())


def attach(error: JunctorError, receipt: bytes) -> None:
    """Put a serialized receipt, unless it is empty or too long, into what an error says."""
    text = _packed(receipt).decode() if receipt else ""
    if 0 < len(text) <= MOST_TEXT:
        error.metadata[METADATA] = text


def _packed(receipt: bytes) -> bytes:
    return base64.urlsafe_b64encode(zlib.compress(receipt)).rstrip(b"=")


def unpack(text: str) -> receipt_pb2.Receipt:
    """Read a receipt from the text of :func:`pack`, a whole comment line, or the field. Raises InvalidField."""
    token = text.strip().rpartition(" ")[2]
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(packed, MOST_BYTES)
        if not unpacking.eof:
            raise ValueError("cut short, or too large")
        return receipt_pb2.Receipt.FromString(content)
    except Exception as error:  # each of three libraries has errors of its own for text that is no receipt
        rule = "must be the text of x-junctor-receipt or of the comment, whole"
        raise InvalidField.of(FieldViolation("receipt", rule)) from error


class ReceiptSink:
    """Passes an answer on to ``sink`` and adds the receipt to it."""

    def __init__(self, sink: Sink, receipt: receipt_pb2.Receipt, tried: Sequence[Attempt]) -> None:
        """``tried`` grows with every attempt that has ended."""
        self._sink = sink
        self._receipt = receipt
        self._tried = tried
        self._stream = False

    def head(self, head: Head, source: Source) -> None:
        """Take the head; what is known now has to do where the body has no place for more."""
        self._stream = head.event_stream and head.status not in _BODYLESS
        if self._stream:
            head.length = None  # the comment comes on top
        else:
            kept = [field for field in head.headers if field[0] != FIELD]
            head.headers = [*kept, (FIELD, _packed(self._so_far(head)))]
        self._sink.head(head, source)

    def data(self, data: bytes) -> None:
        """Take body bytes."""
        self._sink.data(data)

    def end(self, outcome: Outcome) -> None:
        """Take the end, with what happened."""
        _add_attempts(self._receipt, outcome.attempts)
        outcome.receipt = self._receipt.SerializeToString()
        if self._stream:
            # A line of its own, which ends nothing: an event that was cut must not look whole.
            self._sink.data(b"\n" + COMMENT + pack(self._receipt) + b"\n")
        self._sink.end(outcome)

    def fail(self, error: JunctorError) -> None:
        """Put the receipt into the error of a call that gave no answer."""
        _add_attempts(self._receipt, self._tried)
        attach(error, self._receipt.SerializeToString())

    def _so_far(self, head: Head) -> bytes:
        """Write down what was tried when the head is sent: the attempt that answers has not ended yet."""
        receipt = receipt_pb2.Receipt()
        receipt.CopyFrom(self._receipt)
        _add_attempts(receipt, self._tried)
        if len(self._tried) < head.attempts:
            receipt.attempts.add(provider=head.provider, status=head.status)
        return receipt.SerializeToString()


def _add_attempts(receipt: receipt_pb2.Receipt, attempts: Iterable[Attempt]) -> None:
    for attempt in attempts:
        receipt.attempts.add(
            provider=attempt.provider,
            status=attempt.status,
            failure=attempt.failure,
            milliseconds=attempt.milliseconds,
        )
