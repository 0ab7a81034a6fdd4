"""Copies chosen fields from one protobuf message to another of the same type."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message


def copy_fields(source: Message, target: Message, fields: Iterable[str]) -> None:
    """Make ``fields`` of ``target`` what they are in ``source``; one that is not set there is cleared."""
    for name in fields:
        target.ClearField(name)
        descriptor = source.DESCRIPTOR.fields_by_name[name]
        if descriptor.is_repeated:
            getattr(target, name).MergeFrom(getattr(source, name))
        elif descriptor.has_presence and not source.HasField(name):
            continue
        elif descriptor.message_type is not None:
            getattr(target, name).CopyFrom(getattr(source, name))
        else:
            setattr(target, name, getattr(source, name))
