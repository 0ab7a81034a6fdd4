"""Which brackets of a request body are nesting and which are text, however the strings around them are escaped."""

from __future__ import annotations

import pytest

from junctor.errors import MalformedRequest
from services.inference_router.json_rules import MAX_DEPTH, check, read_fields

TEXT = b"[" * (MAX_DEPTH + 10)
NESTED = b"[" * (MAX_DEPTH + 10) + b"]" * (MAX_DEPTH + 10)


@pytest.mark.parametrize(
    "before", [b"", rb"\"", rb"\\", rb"\\\"", rb"\\\\", rb"\\\\\"", rb"\n\"", rb"\u005c", rb"\u0022\\"], ids=ascii
)
@pytest.mark.parametrize("padding", [b"", b" " * 9000], ids=["small", "large"])
def test_brackets_in_text_are_no_nesting(before: bytes, padding: bytes) -> None:
    text = b'{"a":["%b%b","%b"],%b"b":1}' % (before, TEXT, before, padding)
    check(text, read_fields(text))
    nested = b'{"a":["%b",%b,"%b"],%b"b":1}' % (before, NESTED, before, padding)
    with pytest.raises(MalformedRequest, match=f"more than {MAX_DEPTH} levels"):
        check(nested, read_fields(nested))
