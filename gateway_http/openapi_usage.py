"""Describes the routes of usage and prices in OpenAPI, for :mod:`gateway_http.openapi`."""

from __future__ import annotations

from typing import Any

from gateway_http import routes_usage
from gateway_http.queries import MAX_PAGE_SIZE

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0, "maximum": 10**15}
_INTEGER: Json = {"type": "integer"}
_UNKNOWN: Json = {"type": ["integer", "null"]}
_TIME: Json = {"type": "string", "format": "date-time"}
_SECONDS: Json = {"type": "number"}
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


def paths(failures: Json) -> Json:
    """Return the paths; ``failures``: the answers that every operation may have."""
    form = _query("format", {"type": "string", "enum": ["json", "csv"]}, "Also by the header accept: text/csv")
    common = [
        _query("workspace", _TEXT, "Of this workspace alone"),
        _query("since", _TIME, "From this time on"),
        _query("until", _TIME, "Up to this time, exclusive"),
        _query("filter", _TEXT, "JSON or text; also as filter[field] and filter[field][$operator]"),
        form,
    ]
    pages = [
        _query("page", {"type": "integer", "minimum": 1, "default": 1}),
        _query("page_size", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": 100}),
        _query("sort", {"type": "string", "enum": ["time", "-time"], "default": "-time"}),
    ]
    by = _query("by", {"type": "array", "items": _TEXT, "maxItems": 8}, "model, day, tag:<name> …; repeatable")
    ever = _query("all_versions", {"type": "boolean", "default": False}, "Also those that others have replaced")
    listed, summed = _answer("UsageRecordPage", csv=True), _answer("UsageSummary", csv=True)
    price = {"required": True, "content": {"application/json": {"schema": _ref("PriceCreate")}}}
    return {
        routes_usage.USAGE: {"get": _operation("list_usage", "List records", [*pages, *common], listed | failures)},
        routes_usage.SUMMARY: {"get": _operation("summarize_usage", "Add up", [by, *common], summed | failures)},
        routes_usage.PRICES: {
            "get": _operation("list_prices", "List prices", [ever], _answer("PriceList") | failures),
            "post": _operation("set_price", "Set a price from a time on", [], _answer("Price") | failures)
            | {"requestBody": price},
        },
    }


def schemas() -> Json:
    """Return the component schemas that :func:`paths` refers to."""
    record: Json = dict.fromkeys((key.name for key in routes_usage.RECORD.keys), _TEXT)
    record |= {
        "time": _TIME,
        "tags": {"type": "object", "additionalProperties": _TEXT},
        "stream": {"type": "boolean"},
        **dict.fromkeys(("status", "attempts", "price_version"), _INTEGER),
        **dict.fromkeys((*_TOKENS, "cost_micros"), _UNKNOWN),
        "token_source": {"type": ["string", "null"], "enum": ["REPORTED", "ESTIMATED", None]},
        **dict.fromkeys(("queue_seconds", "total_seconds"), _SECONDS),
        "first_byte_seconds": {"type": ["number", "null"]},
    }
    price: Json = {
        "model": {"type": "string", "minLength": 1, "maxLength": 512},
        "provider": {"type": "string", "default": "*"},
        **dict.fromkeys(("input_micros", "output_micros"), _COUNT),
        "cached_input_micros": _COUNT | {"type": ["integer", "null"]},
        "valid_from": _TIME | {"type": ["string", "null"]},
    }
    sums: Json = dict.fromkeys((key.name for key in routes_usage.SUM.keys), _INTEGER)
    sums["group"] = {"type": "array", "items": _TEXT}
    counts = dict.fromkeys(("page", "page_size", "current_page_size", "total_pages", "total_results"), _INTEGER)
    data: Json = {"data": {"type": "array", "items": _ref("UsageRecord")}}
    return {
        "UsageRecord": {"type": "object", "properties": record},
        "UsageRecordPage": _object(data | {"pagination": _object(counts), "sort": _TEXT}),
        "UsageSum": _object(sums),
        "UsageSummary": _object(
            {
                "by": {"type": "array", "items": _TEXT},
                "sums": {"type": "array", "items": _ref("UsageSum")},
                "total": _ref("UsageSum"),
            }
        ),
        "Price": {"type": "object", "properties": price | {"version": _INTEGER, "created_by": _TEXT}},
        "PriceCreate": {
            "type": "object",
            "properties": price,
            "required": ["model", "input_micros", "output_micros"],
        },
        "PriceList": _object({"data": {"type": "array", "items": _ref("Price")}}),
    }


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _operation(name: str, summary: str, parameters: list[Json], answers: Json) -> Json:
    return {
        "tags": ["Usage"],
        "operationId": name,
        "summary": summary,
        "parameters": parameters,
        "responses": answers,
    }


def _answer(schema: str, *, csv: bool = False) -> Json:
    content: Json = {"application/json": {"schema": _ref(schema)}}
    if csv:
        content["text/csv"] = {"schema": _TEXT}
    return {"200": {"description": "Done", "content": content}}


def _query(name: str, schema: Json, description: str = "") -> Json:
    shown = {"description": description} if description else {}
    return {"name": name, "in": "query", "required": False, "schema": schema} | shown


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
