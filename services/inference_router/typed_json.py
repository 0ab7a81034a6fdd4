"""OpenAI's JSON to and from the messages of ``inference.proto``, by their descriptors.

Field names are the same on both sides. A ``bytes`` field is a piece of JSON; what a message does not model, or not in
that form, is in its ``extra_json``, byte for byte. Forms that need more than that have a row in ``_SPECIAL``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import inference_pb2 as pb

Fields = dict[str, msgspec.Raw]
"""A JSON object whose values were not looked at."""

_NOT_JSON = {"extra_json", "choice_extra_json", "content_form", "options", "route", "verdict"}
_HIDDEN = {
    "ChatDelta": {"index", "logprobs"},  # they come from the choice around the delta
    "ChatMessage": {"content"},
    "Embedding": {"values", "base64"},
}
"""Further fields, by message, that are not fields of its JSON or have a row in ``_SPECIAL``."""

_BAD_JSON = (msgspec.MsgspecError, ValueError, RecursionError)
_NULL = b"null"
_Token = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_INT64 = 1 << 63
_INT32 = 1 << 31


def to_json(message: Message, path: str = "") -> dict[str, Any]:
    """Write a message as a JSON object for ``msgspec``. Raises InvalidField naming what is not JSON."""
    out: dict[str, Any] = {}
    shape = _SHAPES[message.DESCRIPTOR.full_name]
    for descriptor, value in message.ListFields():
        if descriptor.name in shape:
            out[descriptor.name] = _value_to(descriptor, value, f"{path}{descriptor.name}")
    if (special := _SPECIAL.get(message.DESCRIPTOR.full_name)) is not None:
        special.write(message, out, path)
    merge(out, message.extra_json, f"{path}extra_json")  # type: ignore[attr-defined]
    return out


def merge(out: dict[str, Any], extra: bytes, path: str) -> None:
    """Add the fields of ``extra_json``. Raises InvalidField if it is no object or repeats a field."""
    if not extra:
        return
    check_json(extra, path)
    fields = object_of(extra)
    if fields is None:
        raise InvalidField.of(FieldViolation(path, "must be a JSON object"))
    if repeated := sorted(out.keys() & fields.keys()):
        raise InvalidField.of(FieldViolation(path, f"must not repeat the field {repeated[0]!r}"))
    out.update(fields)


def check_json(data: bytes, path: str) -> None:
    """Raise InvalidField unless the bytes are one JSON value."""
    try:
        msgspec.json.decode(data)
    except _BAD_JSON:
        raise InvalidField.of(FieldViolation(path, "must be valid JSON")) from None


def object_of(data: bytes | msgspec.Raw) -> Fields | None:
    """Split a JSON object into its fields; None if it is not one."""
    fields: Fields | None = decode(data, Fields)
    return fields


def decode(data: bytes | msgspec.Raw, kind: Any) -> Any:
    """Decode JSON as the given type; None if it is anything else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except _BAD_JSON:
        return None


def is_null(raw: msgspec.Raw) -> bool:
    """Tell whether a field is null."""
    return bytes(raw) == _NULL


def from_json(message: Message, fields: Mapping[str, msgspec.Raw]) -> None:
    """Read a JSON object into a message; what does not fit goes to ``extra_json``, null fields it knows go nowhere."""
    left: Fields = {}
    name = message.DESCRIPTOR.full_name
    shape, special = _SHAPES[name], _SPECIAL.get(name)
    for key, raw in fields.items():
        if special is not None and special.read(message, key, raw):
            continue
        descriptor = shape.get(key)
        if descriptor is not None and (is_null(raw) or _read(message, descriptor, raw)):
            continue
        left[key] = raw
    if left:
        message.extra_json = msgspec.json.encode(left)  # type: ignore[attr-defined]


def _value_to(descriptor: FieldDescriptor, value: Any, path: str) -> Any:
    if _is_map(descriptor):
        return {key: _number(item) for key, item in value.items()}
    if descriptor.is_repeated:
        return [_item_to(descriptor, item, f"{path}[{n}]") for n, item in enumerate(value)]
    return _item_to(descriptor, value, path)


def _item_to(descriptor: FieldDescriptor, value: Any, path: str) -> Any:
    if descriptor.type == FieldDescriptor.TYPE_BYTES:
        check_json(value, path)
        return msgspec.Raw(value)
    if descriptor.type == FieldDescriptor.TYPE_MESSAGE:
        whole = _WHOLE.get(value.DESCRIPTOR.full_name)
        return whole[0](value, path) if whole is not None else to_json(value, f"{path}.")
    return value


def _number(value: Any) -> Any:
    """Token biases are integers in OpenAI's schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read(message: Message, descriptor: FieldDescriptor, raw: msgspec.Raw) -> bool:
    target = getattr(message, descriptor.name)
    if descriptor.type == FieldDescriptor.TYPE_MESSAGE and not _is_map(descriptor):
        return _read_messages(message, descriptor, raw)
    if descriptor.type == FieldDescriptor.TYPE_BYTES:
        setattr(message, descriptor.name, bytes(raw))
        return True
    value = decode(raw, _python_type(descriptor))
    if value is None or (isinstance(value, int) and not _fits(descriptor, value)):
        return False
    if _is_map(descriptor):
        target.update(value)
        return bool(value)
    if descriptor.is_repeated:
        target.extend(value)
        return bool(value)
    setattr(message, descriptor.name, value)
    return True


def _read_messages(message: Message, descriptor: FieldDescriptor, raw: msgspec.Raw) -> bool:
    target = getattr(message, descriptor.name)
    kind = descriptor.message_type
    if kind is not None and (whole := _WHOLE.get(kind.full_name)) is not None:
        whole[1](target, raw)
        return True
    if not descriptor.is_repeated:
        fields = object_of(raw)
        if fields is None:
            return False
        target.SetInParent()
        from_json(target, fields)
        return True
    items = decode(raw, list[Fields])
    for fields in items or ():
        from_json(target.add(), fields)
    return bool(items)


def _fits(descriptor: FieldDescriptor, value: int) -> bool:
    limit = _INT32 if descriptor.type == FieldDescriptor.TYPE_INT32 else _INT64
    return -limit <= value < limit


def _is_map(descriptor: FieldDescriptor) -> bool:
    kind = descriptor.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def _python_type(descriptor: FieldDescriptor) -> Any:
    if (kind := descriptor.message_type) is not None:
        return _MAPS[kind.fields_by_name["value"].type]
    return _LISTS[descriptor.type] if descriptor.is_repeated else _SCALARS[descriptor.type]


_SCALARS: dict[int, type] = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_INT32: int,
    FieldDescriptor.TYPE_INT64: int,
    FieldDescriptor.TYPE_DOUBLE: float,
}
_LISTS: dict[int, Any] = {FieldDescriptor.TYPE_STRING: list[str]}
_MAPS: dict[int, Any] = {
    FieldDescriptor.TYPE_STRING: dict[str, str],
    FieldDescriptor.TYPE_DOUBLE: dict[str, float],
}


class _ChatMessage:
    """``content``: a string, a list of parts, null or absent."""

    @staticmethod
    def write(message: Any, out: dict[str, Any], path: str) -> None:
        form, parts = message.content_form, message.content
        if form == pb.CONTENT_FORM_NULL:
            out["content"] = None
        elif _is_text(message):
            if any(part.WhichOneof("part") != "text" for part in parts):
                raise InvalidField.of(FieldViolation(f"{path}content_form", "STRING needs text parts only"))
            out["content"] = "".join(part.text for part in parts)
        elif parts or form == pb.CONTENT_FORM_PARTS:
            out["content"] = [_part_to(part, f"{path}content[{n}]") for n, part in enumerate(parts)]

    @staticmethod
    def read(message: Any, key: str, raw: msgspec.Raw) -> bool:
        if key != "content":
            return False
        if is_null(raw):
            message.content_form = pb.CONTENT_FORM_NULL
        elif (text := decode(raw, str)) is not None:
            message.content_form = pb.CONTENT_FORM_STRING
            message.content.add(text=text)
        elif (parts := decode(raw, list[msgspec.Raw])) is not None:
            message.content_form = pb.CONTENT_FORM_PARTS
            for part in parts:
                _part_from(message.content.add(), part)
        else:
            return False
        return True


def _is_text(message: Any) -> bool:
    if message.content_form != pb.CONTENT_FORM_UNSPECIFIED:
        return bool(message.content_form == pb.CONTENT_FORM_STRING)
    parts = message.content
    return len(parts) == 1 and parts[0].WhichOneof("part") == "text" and not parts[0].extra_json


class _Embedding:
    """``embedding``: numbers, or base64 that stays as the provider wrote it."""

    @staticmethod
    def write(message: Any, out: dict[str, Any], path: str) -> None:
        if message.base64:
            out["embedding"] = message.base64.decode("ascii")
        elif message.values:
            out["embedding"] = list(message.values)

    @staticmethod
    def read(message: Any, key: str, raw: msgspec.Raw) -> bool:
        if key != "embedding":
            return False
        if bytes(memoryview(raw)[:1]) == b'"':
            text = bytes(memoryview(raw)[1:-1])
            # without escapes the text between the quotes is the base64; "\/" is the one escape it may have
            message.base64 = text.replace(b"\\/", b"/")
            return True
        values = decode(raw, list[float])
        message.values.extend(values or ())
        return bool(values)


_SPECIAL: dict[str, Any] = {
    pb.ChatMessage.DESCRIPTOR.full_name: _ChatMessage,
    pb.Embedding.DESCRIPTOR.full_name: _Embedding,
}
"""Messages in which a field has several forms: how it is written, and read (False: not this field, or no form)."""


def _part_to(part: Any, path: str) -> Any:
    kind = part.WhichOneof("part")
    if kind is None:
        raise InvalidField.of(FieldViolation(path, "must have one of its kinds"))
    if kind == "json":
        check_json(part.json, f"{path}.json")
        return msgspec.Raw(part.json)
    value = getattr(part, kind)
    out = {"type": kind, kind: value if isinstance(value, str) else to_json(value, f"{path}.{kind}.")}
    merge(out, part.extra_json, f"{path}.extra_json")
    return out


def _part_from(part: Any, raw: msgspec.Raw) -> None:
    fields = object_of(raw)
    kind = decode(fields["type"], str) if fields is not None and "type" in fields else None
    if fields is None or kind not in _PARTS or kind not in fields or not _read_part(part, kind, fields[kind]):
        part.json = bytes(raw)
        return
    if left := {key: value for key, value in fields.items() if key not in ("type", kind)}:
        part.extra_json = msgspec.json.encode(left)


def _read_part(part: Any, kind: str, raw: msgspec.Raw) -> bool:
    if kind in ("text", "refusal"):
        text = decode(raw, str)
        if text is not None:
            setattr(part, kind, text)
        return text is not None
    fields = object_of(raw)
    if fields is None:
        return False
    getattr(part, kind).SetInParent()
    from_json(getattr(part, kind), fields)
    return True


_PARTS = frozenset({"text", "image_url", "input_audio", "file", "refusal"})


def _choice_to(choice: Any, path: str) -> Any:
    match choice.WhichOneof("choice"):
        case "mode":
            return choice.mode
        case "function":
            return {"type": "function", "function": {"name": choice.function}}
        case "json":
            check_json(choice.json, f"{path}.json")
            return msgspec.Raw(choice.json)
    raise InvalidField.of(FieldViolation(path, "must have one of its forms"))


def _choice_from(choice: Any, raw: msgspec.Raw) -> None:
    if (mode := decode(raw, str)) is not None:
        choice.mode = mode
        return
    value = decode(raw, dict[str, Any]) or {}
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if isinstance(name, str) and value == {"type": "function", "function": {"name": name}}:
        choice.function = name
    else:
        choice.json = bytes(raw)


def _input_to(message: Any, path: str) -> Any:
    match message.WhichOneof("input"):
        case "text":
            return message.text
        case "texts":
            return list(message.texts.values)
        case "tokens":
            return list(message.tokens.values)
        case "token_lists":
            return [list(tokens.values) for tokens in message.token_lists.values]
        case "json":
            check_json(message.json, f"{path}.json")
            return msgspec.Raw(message.json)
    raise InvalidField.of(FieldViolation(path, "must have one of its forms"))


def _input_from(message: Any, raw: msgspec.Raw) -> None:
    if (text := decode(raw, str)) is not None:
        message.text = text
    elif texts := decode(raw, list[str]):
        message.texts.values.extend(texts)
    elif tokens := decode(raw, list[_Token]):
        message.tokens.values.extend(tokens)
    elif lists := decode(raw, list[list[_Token]]):
        for one in lists:
            message.token_lists.values.add(values=one)
    else:
        message.json = bytes(raw)


_WHOLE: dict[str, tuple[Callable[[Any, str], Any], Callable[[Any, msgspec.Raw], None]]] = {
    pb.ToolChoice.DESCRIPTOR.full_name: (_choice_to, _choice_from),
    pb.TextInput.DESCRIPTOR.full_name: (_input_to, _input_from),
}
"""Messages that are not JSON objects: how they are written, and read."""


def _shape(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    hidden = _NOT_JSON | _HIDDEN.get(descriptor.name, set())
    return {
        field.name: field
        for field in descriptor.fields
        if field.name not in hidden
        and not (field.containing_oneof is not None and field.containing_oneof.name == "target")
    }


_SHAPES = {d.full_name: _shape(d) for d in pb.DESCRIPTOR.message_types_by_name.values()}
"""Fields of each message that are fields of its JSON."""
