"""The demo model's pure parts: tokens and values that fit a schema."""

from __future__ import annotations

from typing import Any

import pytest

from services.demo import text
from services.demo.schema import value_for


@pytest.mark.parametrize("said", ["", " \n", "a  b,c\n\n", "supercalifragilistic", "naïve 漢字 🎉!", "\x00\t_"])
def test_tokens_join_to_the_text_they_were_cut_from(said: str) -> None:
    assert "".join(text.tokenize(said)) == said


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 7}, 7),
        ({"type": "array", "items": {"type": "boolean"}}, [True]),
        ({"type": ["null", "integer"], "minimum": 5}, 5),
        ({"anyOf": [{"type": "number", "maximum": 0}]}, 0),
        ({"type": "null"}, None),
        ({"$ref": "#/nowhere"}, "Paris"),
    ],
    ids=["enum", "const", "array", "type-list", "any-of", "null", "unknown"],
)
def test_schema_values(schema: Any, value: Any) -> None:
    assert value_for(schema, "the weather in Paris") == value
