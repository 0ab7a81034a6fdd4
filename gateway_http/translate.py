"""Turns the JSON of the contract into messages, by the tables of ``gateway_http.resources``.

Every wrong value is collected into one :class:`BadBody`; null is "not set"; unknown keys are ignored; what a
well-formed value may *say* is the servers' business. The other direction is ``gateway_http.rendering``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway_http.resources import NESTED, Key
from junctor.errors import FieldViolation, InvalidArgument, InvalidField, MalformedRequest
from junctor.filters import as_time
from services.access.roles import ROLE_OF_LABEL
from services.runtime.validation import NESTING_LIMIT, nested_beyond

WRAPPED = {"junctor.v1.StringList", "junctor.v1.ExtraHeaders", "junctor.v1.ServedModelList", "junctor.v1.LabelSet"}
"""Messages that only make a list or a map optional: REST shows their ``values``."""


class BadBody(InvalidField):
    """A body that does not fit its table; ``kinds`` has the ``type`` of each violation, in order."""

    def __init__(self, problems: Iterable[tuple[str, str, str]]) -> None:
        found = list(problems)
        violations = tuple(FieldViolation(field, rule) for field, _, rule in found)
        super().__init__(
            "Invalid request: " + "; ".join(f"{v.field}: {v.rule}" for v in violations), violations=violations
        )
        self.kinds = tuple(kind for _, kind, _ in found)

    def beside(self, other: InvalidArgument) -> InvalidArgument:
        """Return the error that names these fields and those that a service found in the rest of the same body."""
        if not isinstance(other, InvalidField):  # refused in words of its own
            return MalformedRequest(f"{other.message} {self.message}")
        mine = {v.field: (v.field, kind, v.rule) for v, kind in zip(self.violations, self.kinds, strict=True)}
        others = [(v.field, "value_error", v.rule) for v in other.violations if v.field not in mine]
        return BadBody([*mine.values(), *others])


# What both directions know


def nested_keys(descriptor: Descriptor) -> tuple[Key, ...]:
    """Return the keys of an object inside of a resource."""
    listed = NESTED.get(descriptor.full_name)
    return listed or tuple(Key(field.name, settable=True) for field in descriptor.fields)


def _field(message: Message, name: str) -> FieldDescriptor:
    return cast(FieldDescriptor, message.DESCRIPTOR.fields_by_name[name])


def is_map(field: FieldDescriptor) -> bool:
    """Tell whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Names of the values without the prefix that proto style asks for; the value 0 is "not set"."""
    if enum.full_name == "junctor.v1.Role":
        return {role.value: role.label for role in ROLE_OF_LABEL.values()}
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix) for value in enum.values if value.number}


def enum_values(enum: EnumDescriptor) -> list[str]:
    """Return the names that REST knows an enum's values by."""
    return list(enum_names(enum).values())


# JSON to messages


class Reader:
    """Reads one body into messages and collects what is wrong; :meth:`done` raises it all at once."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._problems: list[tuple[str, str, str]] = []

    def read(self, message: Message, keys: Iterable[Key]) -> Message:
        """Set every given, non-null key in ``message``; a required one must be there."""
        self._fill(message, keys, self._body, "")
        return message

    def text(self, key: Key) -> str | None:
        """Return a text that no message has; None when it is not given."""
        value = self._body.get(key.name)
        if value is None:
            if key.required:
                self._bad(key.name, "missing", "Field required")
            return None
        return value if self._is_text(key, value, key.name) else None

    def done(self) -> None:
        """Raise :class:`BadBody` if anything was wrong."""
        if self._problems:
            raise BadBody(self._problems)

    def _bad(self, where: str, kind: str, rule: str) -> None:
        self._problems.append((where, kind, rule))

    def _fill(self, message: Message, keys: Iterable[Key], content: Mapping[str, Any], prefix: str) -> None:
        for key in keys:
            where = prefix + key.name
            value = content.get(key.name)
            if value is not None:
                self._set(message, key, value, where)
            elif key.required:
                self._bad(where, *_absent(key, content))

    def _set(self, message: Message, key: Key, value: Any, where: str) -> None:
        field = _field(message, key.name)
        oneof = field.containing_oneof
        if oneof is not None and (taken := message.WhichOneof(oneof.name)) is not None:
            self._bad(where, "value_error", f"Cannot be given together with '{taken}'")
        elif field.is_repeated:
            self._repeat(field, getattr(message, key.name), value, where)
        elif field.message_type is not None:
            self._nest(field, getattr(message, key.name), value, where)
        elif (scalar := self._scalar(field, key, value, where)) is not None:
            setattr(message, key.name, scalar)

    def _repeat(self, field: FieldDescriptor, target: Any, value: Any, where: str) -> None:
        if is_map(field):
            self._map(target, value, where)
            return
        if not isinstance(value, list):
            self._bad(where, "list_type", "Input should be a valid list")
            return
        for index, one in enumerate(value):
            at = f"{where}[{index}]"
            if field.message_type is not None:
                self._nest(field, target.add(), one, at)
            elif (scalar := self._scalar(field, Key(field.name), one, at)) is not None:
                target.append(scalar)

    def _map(self, target: Any, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            self._bad(where, "dict_type", "Input should be a valid dictionary")
            return
        for name, one in value.items():
            key = Key("values")
            # A name may hold dots and brackets, which a path cannot: the whole map is named then.
            at = f"{where}.{name}" if re.fullmatch(r"[\w-]+", name) else where
            if self._is_text(key, name, at) and self._is_text(key, one, at):
                target[name] = one

    def _nest(self, field: FieldDescriptor, target: Message, value: Any, where: str) -> None:
        descriptor = cast(Descriptor, field.message_type)
        if descriptor.full_name == "google.protobuf.Timestamp":
            self._time(target, value, where)
            return
        target.SetInParent()
        if descriptor.full_name in WRAPPED:
            self._repeat(_field(target, "values"), getattr(target, "values"), value, where)  # noqa: B009
        elif isinstance(value, dict):
            self._fill(target, nested_keys(descriptor), value, where + ".")
        else:
            self._bad(
                where, "model_attributes_type", "Input should be a valid dictionary or object to extract fields from"
            )

    def _time(self, target: Any, value: Any, where: str) -> None:
        try:
            target.FromDatetime(as_time(value))
        except (MalformedRequest, ValueError):
            self._bad(where, "datetime_parsing", "Input should be a valid datetime (ISO 8601)")

    def _scalar(self, field: FieldDescriptor, key: Key, value: Any, where: str) -> Any:
        if field.enum_type is not None:
            return self._enum(field.enum_type, value, where)
        if field.type == FieldDescriptor.TYPE_STRING:
            return value if self._is_text(key, value, where) else None
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._json(key, value, where)
        if field.type == FieldDescriptor.TYPE_BOOL:
            if isinstance(value, bool):
                return value
            self._bad(where, "bool_type", "Input should be a valid boolean")
            return None
        return self._integer(field, value, where)

    def _enum(self, enum: EnumDescriptor, value: Any, where: str) -> int | None:
        names = {name: number for number, name in enum_names(enum).items()}
        if isinstance(value, str) and value in names:
            return names[value]
        self._bad(where, "enum", f"Input should be {one_of(names)}")
        return None

    def _integer(self, field: FieldDescriptor, value: Any, where: str) -> int | None:
        most = 2**32 if field.type == FieldDescriptor.TYPE_UINT32 else 2**63
        if not isinstance(value, int) or isinstance(value, bool):
            self._bad(where, "int_type", "Input should be a valid integer")
        elif not 0 <= value < most:
            self._bad(where, "greater_than_equal" if value < 0 else "less_than", f"Input should be in 0 to {most - 1}")
        else:
            return value
        return None

    def _json(self, key: Key, value: Any, where: str) -> bytes | None:
        check = _JSON_SHAPES.get(key.json)
        if check is not None and not isinstance(value, check[0]):
            self._bad(where, *check[1:])
            return None
        if nested_beyond(value, NESTING_LIMIT):
            self._bad(where, "json_nesting", f"Input should be nested at most {NESTING_LIMIT} deep")
            return None
        try:
            return dumps(value)
        except ValueError:  # Infinity, lone surrogates
            self._bad(where, "json_invalid", "Input should be JSON as RFC 8259 has it")
            return None

    def _is_text(self, key: Key, value: Any, where: str) -> bool:
        for kind, rule, fits in _TEXT_RULES:
            if not fits(key, value):
                self._bad(where, kind, rule(key))
                return False
        return True


_JSON_SHAPES: dict[str, tuple[type, str, str]] = {
    "object": (dict, "dict_type", "Input should be a valid dictionary"),
    "array": (list, "list_type", "Input should be a valid list"),
}

_TEXT_RULES: tuple[tuple[str, Callable[[Key], str], Callable[[Key, Any], bool]], ...] = (
    ("string_type", lambda _: "Input should be a valid string", lambda _, value: isinstance(value, str)),
    (
        "string_unicode",
        lambda _: "Input should be valid Unicode without NUL",
        lambda _, value: re.search("[\0\ud800-\udfff]", value) is None,
    ),
    (
        "string_too_long",
        lambda key: f"String should have at most {key.max_length} characters",
        lambda key, value: key.max_length is None or len(value) <= key.max_length,
    ),
    (
        "string_pattern_mismatch",
        lambda key: f"String should match pattern '{key.pattern}'",
        lambda key, value: key.pattern is None or re.match(key.pattern[:-1] + r"\Z", value) is not None,
    ),
)


def _absent(key: Key, content: Mapping[str, Any]) -> tuple[str, str]:
    if key.name in content:
        return "string_type", "Input should be a valid string"
    return "missing", "Field required"


def one_of(names: Iterable[str]) -> str:
    """Write ``'A', 'B' or 'C'``."""
    *most, last = (f"'{name}'" for name in names)
    return f"{', '.join(most)} or {last}" if most else last


def dumps(content: object) -> bytes:
    """Write JSON as UTF-8. Raises ValueError for what JSON cannot hold."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def loads(body: bytes) -> dict[str, Any]:
    """Read a request body, which must be a JSON object in UTF-8. Raises :class:`BadBody`."""
    if not body:
        raise BadBody([("body", "missing", "Field required")])
    try:
        content = json.loads(body.decode(), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadBody([(f"body[{error.pos}]", "json_invalid", "JSON decode error")]) from None
    except (ValueError, RecursionError):
        raise BadBody([("body", "json_invalid", "JSON decode error")]) from None
    if not isinstance(content, dict):
        rule = "Input should be a valid dictionary or object to extract fields from"
        raise BadBody([("body", "model_attributes_type", rule)])
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
