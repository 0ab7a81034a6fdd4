"""Values that fit a JSON Schema: arguments of the demo model's tool calls and its structured output.

Covers the keywords that tool definitions use (type, enum, const, default, properties, items, anyOf); what it
does not know becomes a string. References are not followed.
"""

from __future__ import annotations

import re
from typing import Any

MAX_DEPTH = 16


def value_for(schema: Any, prompt: str, *, depth: int = 0) -> Any:
    """Make the value that ``schema`` asks for; strings are taken from ``prompt``."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return topic(prompt)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    for keyword in ("enum", "examples"):
        if isinstance(schema.get(keyword), list) and schema[keyword]:
            return schema[keyword][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(keyword), list) and schema[keyword]:
            return value_for(schema[keyword][0], prompt, depth=depth + 1)
    return _by_type(schema, prompt, depth)


def _by_type(schema: dict[str, Any], prompt: str, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties")
        names = properties if isinstance(properties, dict) else {}
        return {name: value_for(sub, prompt, depth=depth + 1) for name, sub in names.items()}
    if kind == "array":
        return [value_for(schema.get("items"), prompt, depth=depth + 1)]
    if kind in ("integer", "number"):
        return _number(schema, prompt)
    return {"boolean": True, "null": None}.get(str(kind), topic(prompt))


def _number(schema: dict[str, Any], prompt: str) -> int | float:
    named = re.search(r"-?\d{1,15}", prompt)
    value: int | float = int(named.group()) if named else 1
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int | float):
        value = max(value, low)
    if isinstance(high, int | float):
        value = min(value, high)
    return value


def topic(prompt: str) -> str:
    """Pick what a prompt is about: its last capitalised word that opens no sentence, else its last word."""
    names = re.findall(r"(?<=[\w,;:] )[A-Z][\w-]+", prompt)
    words = re.findall(r"[\w-]+", prompt)
    return str(names[-1] if names else words[-1] if words else "demo")
