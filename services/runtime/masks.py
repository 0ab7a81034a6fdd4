"""Update masks: which fields a caller wants written."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from junctor.errors import FieldViolation, InvalidField


def masked(mask: FieldMask, writable: Sequence[str]) -> list[str]:
    """Return the fields that ``mask`` names, each once. Raises InvalidField for one that cannot be written."""
    bad = [FieldViolation("update_mask", f"'{path}' cannot be written") for path in mask.paths if path not in writable]
    if bad:
        raise InvalidField.of(*bad)
    return list(dict.fromkeys(mask.paths))
