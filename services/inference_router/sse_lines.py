"""Rewrites the model name in one server-sent event whose JSON object is spread over several ``data:`` lines."""

from __future__ import annotations

from services.inference_router.rewrite import rewrite_fields
from services.inference_router.splice import NOT_JSON, decode_fields

_DATA = b"data:"


def rewrite_lines(lines: list[bytes], served: str, shown: bytes) -> tuple[bytes, bytes]:
    """Return the event with ``shown`` (JSON) where it says ``served``, and its object on one line.

    ``lines`` have their ends; those that are no data stay. If the data is no JSON all stays, and the object is empty.
    """
    values = [line[len(_DATA) :].rstrip(b"\r\n") if line.startswith(_DATA) else b"" for line in lines]
    whole = b"\n".join(values)
    try:
        fresh = rewrite_fields(whole, decode_fields(whole), served, shown)
    except NOT_JSON:
        return b"".join(lines), b""
    pieces = fresh.split(b"\n")  # nothing that was taken out or put in has a line break
    out = []
    for line, value, piece in zip(lines, values, pieces, strict=True):
        data = line.startswith(_DATA)
        out.append(b"".join((_DATA, piece, line[len(_DATA) + len(value) :])) if data else line)
    return b"".join(out), fresh.replace(b"\n", b" ")
