"""Describes the REST surface in OpenAPI 3.1, from the same tables that translate it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

from fastapi import FastAPI
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway_http import (
    openapi_usage,
    routes_audit,
    routes_keys,
    routes_live,
    routes_members,
    routes_models,
    routes_providers,
    routes_secrets,
    routes_served,
    routes_virtual_models,
    routes_workspaces,
)
from gateway_http.collection import VALIDATE
from gateway_http.queries import MAX_PAGE_SIZE, sort_values
from gateway_http.resources import (
    AUDIT_EVENT,
    KEY,
    MEMBER,
    MODEL,
    PROVIDER,
    SECRET,
    SECRET_VALUE,
    VIRTUAL_MODEL,
    WORKSPACE,
    Key,
    Resource,
)
from gateway_http.translate import WRAPPED, enum_values, nested_keys
from junctor.names import NAME_PATTERN
from junctor.v1 import provider_registry_pb2

Json = dict[str, Any]

_ANY: Json = {}
_SCALARS: dict[int, Json] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
}
_JSON: dict[str, Json] = {"any": _ANY, "object": {"type": "object"}, "array": {"type": "array"}}
_PATHS: tuple[tuple[Resource, str, str], ...] = (
    (WORKSPACE, routes_workspaces.PATH, "PUT"),
    (SECRET, routes_secrets.PATH, "PATCH"),
    (MODEL, routes_models.PATH, "PATCH"),
    (PROVIDER, routes_providers.PATH, "PUT"),
    (VIRTUAL_MODEL, routes_virtual_models.PATH, "PATCH"),
)
"""Resource, path of its collection, and how it is updated."""


def describe(app: FastAPI) -> None:
    """Make ``app.openapi()``, and so ``/openapi.json``, cover these routes as well as FastAPI's own."""
    own = app.openapi

    def document() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _merged(own())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # the way that FastAPI documents


def paths() -> Json:
    """Return the OpenAPI paths of every route of ``registries`` and ``routes_served``."""
    found: Json = {}
    for resource, path, update in _PATHS:
        found[path] = {"get": _list(resource), "post": _create(resource)}
        found[path + VALIDATE] = {"post": _validate(resource)}
        found[path + "/{name}"] = {
            "get": _one(resource, "get", f"Get one {resource.title}"),
            update.lower(): _update(resource),
            "delete": _delete(resource),
        }
    found[routes_providers.PATH + "/{name}/status"] = {
        "put": _operation(
            PROVIDER,
            "set_status",
            "Set a provider's status by hand",
            {"200": _content(_ref("Provider"))},
            body="ProviderStatusUpdate",
        )
    }
    found |= _served()
    found |= _access()
    found |= openapi_usage.paths(_FAILURES)
    return {path: _with_parameters(path, operations) for path, operations in found.items()}


def schemas() -> Json:
    """Return the OpenAPI component schemas that :func:`paths` refers to."""
    found: Json = {"Error": _ERROR}
    for resource, _, _ in _PATHS:
        descriptor = cast(Descriptor, resource.message.DESCRIPTOR)
        changed = [key for key in resource.settable if key.name != "name"]
        value = {"value": {"type": "string", "minLength": 1, "maxLength": 65536}} if resource is SECRET else {}
        found[resource.title] = _object(descriptor, resource.keys, writing=False)
        found[f"{resource.title}Page"] = _page(resource)
        found[f"{resource.title}Create"] = _object(descriptor, resource.settable, writing=True, further=value)
        found[f"{resource.title}Update"] = _object(descriptor, changed, writing=True, further=value)
    found["SecretCreate"]["required"].append(SECRET_VALUE.name)
    status = provider_registry_pb2.UpdateProviderStatusRequest.DESCRIPTOR
    found["ProviderStatusUpdate"] = _object(status, routes_providers.STATUS_KEYS, writing=True)
    found |= _access_schemas()
    found |= openapi_usage.schemas()
    found["ServedModel"] = _SERVED_MODEL
    found["ServedModelList"] = {
        "type": "object",
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("ServedModel")}},
    }
    found["ProviderReady"] = {
        "type": "object",
        "properties": {
            "ready": {"const": True},
            "provider": {"type": "string"},
            "host_url": {"type": "string"},
        },
    }
    return found


def _merged(document: Json) -> Json:
    document.setdefault("paths", {}).update(paths())
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas())
    return document


# Schemas


def _object(descriptor: Descriptor, keys: Iterable[Key], *, writing: bool, further: Json | None = None) -> Json:
    properties = {key.name: _property(descriptor, key, writing=writing) for key in keys}
    if writing:
        required = [key.name for key in keys if key.required]
        if "resource_version" in descriptor.fields_by_name:
            properties["resource_version"] = {"type": ["string", "null"]}
        return {"type": "object", "properties": properties | (further or {}), "required": required}
    return {"type": "object", "properties": properties}


def _property(descriptor: Descriptor, key: Key, *, writing: bool) -> Json:
    field = descriptor.fields_by_name[key.name]
    schema = dict(_field(field, key, writing=writing))
    if writing and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
        schema |= _text_rules(key)
    nullable = not key.required if writing else key.unset is None
    return _or_null(schema) if nullable and schema else schema


def _text_rules(key: Key) -> Json:
    rules: Json = {} if key.max_length is None else {"maxLength": key.max_length}
    if key.name == "name":
        rules["pattern"] = f"^{NAME_PATTERN.pattern}$"
        if key.pattern is not None:
            rules["allOf"] = [{"pattern": key.pattern}]
    return rules


def _field(field: FieldDescriptor, key: Key, *, writing: bool) -> Json:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": {"type": "string"}}
    one = _one_value(field, key, writing=writing)
    return {"type": "array", "items": one} if field.is_repeated else one


def _one_value(field: FieldDescriptor, key: Key, *, writing: bool) -> Json:
    message = field.message_type
    if message is not None:
        return _nested(message, writing=writing)
    if field.enum_type is not None:
        return {"type": "string", "enum": enum_values(field.enum_type)}
    return _JSON[key.json] if field.type == FieldDescriptor.TYPE_BYTES else _SCALARS[field.type]


def _nested(message: Descriptor, *, writing: bool) -> Json:
    if message.full_name == "google.protobuf.Timestamp":
        return {"type": "string", "format": "date-time"}
    if message.full_name in WRAPPED:
        return _field(message.fields_by_name["values"], Key("values"), writing=writing)
    return _object(message, nested_keys(message), writing=writing)


def _or_null(schema: Json) -> Json:
    if "enum" in schema:
        return schema | {"type": [schema["type"], "null"], "enum": [*schema["enum"], None]}
    return schema | {"type": [schema["type"], "null"]}


def _page(resource: Resource) -> Json:
    counts = ("page", "page_size", "current_page_size", "total_pages", "total_results")
    integer = {"type": "integer"}
    properties: Json = {
        "data": {"type": "array", "items": _ref(resource.title)},
        "pagination": {"type": "object", "properties": dict.fromkeys(counts, integer), "required": [*counts]},
    }
    if resource.echoes_sort:
        properties["sort"] = {"type": "string"}
    if resource.echoes_filter:
        properties["filter"] = {"type": "null"}
    return {"type": "object", "properties": properties, "required": [*properties]}


# Operations


def _list(resource: Resource) -> Json:
    parameters = [
        _query("page", {"type": "integer", "minimum": 1, "default": 1}),
        _query(
            "page_size",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": resource.page_size},
        ),
        _query("sort", {"type": "string", "enum": sort_values(resource), "default": resource.default_sort}),
        _query("filter", {"type": "string"}, "JSON or text; also as filter[field] and filter[field][$operator]"),
        *(_query(flag, {"type": "boolean", "default": False}) for flag in resource.flags),
    ]
    answers = {"200": _content(_ref(f"{resource.title}Page"))}
    operation = _operation(resource, "list", f"List {resource.title} resources", answers)
    return operation | {"parameters": parameters}


def _create(resource: Resource) -> Json:
    answers = {"201": _written(resource)}
    return _operation(resource, "create", f"Create a {resource.title}", answers, body=f"{resource.title}Create")


def _validate(resource: Resource) -> Json:
    answers = {"200": _content(_ref(resource.title))}
    summary = f"Check a {resource.title} without writing it"
    return _operation(resource, "validate", summary, answers, body=f"{resource.title}Create")


def _update(resource: Resource) -> Json:
    answers = {"200": _written(resource)}
    operation = _operation(resource, "update", f"Change a {resource.title}", answers, body=f"{resource.title}Update")
    if resource in (MODEL, VIRTUAL_MODEL):
        operation["parameters"] = [_query("null", {"const": "clear"}, "Null clears a field; without: it is kept")]
    return operation


def _delete(resource: Resource) -> Json:
    gone: Json = {"204": {"description": "Deleted", "headers": _REVISION}}
    if resource is WORKSPACE:
        text = {"type": "string"}
        gone = {"200": _content({"type": "object", "properties": {"message": text, "id": text}})}
    version = _query("resource_version", {"type": "string"}, "If given, must be the newest")
    return _operation(resource, "delete", f"Delete a {resource.title}", gone) | {"parameters": [version]}


def _one(resource: Resource, verb: str, summary: str) -> Json:
    return _operation(resource, verb, summary, {"200": _content(_ref(resource.title))})


def _served() -> Json:
    listed, one = _content(_ref("ServedModelList")), _content(_ref("ServedModel"))
    found: Json = {}
    for name, path in (
        ("workspace", routes_served.WORKSPACE_MODELS),
        ("plain", routes_served.PLAIN_MODELS),
    ):
        found[path] = {"get": _plain_operation(f"list_{name}_models", "List what routes now", listed)}
        found[path + "/{id}"] = {"get": _plain_operation(f"get_{name}_model", "Get one of them", one)}
    ready = _content(_ref("ProviderReady"))
    found[routes_served.PROVIDER_READY] = {
        "get": _plain_operation("provider_ready", "Do requests for a provider's models route?", ready)
    }
    anything = _content({"type": "object"})
    explain = _plain_operation("explain_route", "Which providers would a call be tried at, and why?", anything)
    text: Json = {"type": ["string", "null"], "minLength": 1}
    asked = {"type": "object", "properties": dict.fromkeys(routes_live.FIELDS, text), "additionalProperties": False}
    explain["requestBody"] = {"required": True, "content": {"application/json": {"schema": asked}}}
    found[routes_live.EXPLAIN] = {"post": explain}
    activity = _plain_operation("get_activity", "What does this router do now?", anything)
    activity["parameters"] = [_query("workspace", {"type": "string"}, "Of this workspace alone")]
    found[routes_live.ACTIVITY] = {"get": activity}
    return found


def _access() -> Json:
    """Describe keys, members and the record, whose calls are fewer than those of other resources."""
    keys, one_key = (
        _list(KEY),
        _operation(KEY, "create", "Create a key; its value is told this once", {}, body="KeyCreate"),
    )
    keys["parameters"] += [
        _query("workspace", {"type": "string"}, "Keys of this workspace alone"),
        _query("show_ended", {"type": "boolean", "default": False}, "Revoked and expired keys as well"),
    ]
    one_key["responses"] |= {"201": _content(_ref("NewApiKey")) | {"headers": _REVISION}}
    gone: Json = {"204": {"description": "Revoked", "headers": _REVISION}}
    wait = _query("wait_role_propagation", {"type": "boolean", "default": True})
    members = _content({"type": "object", "properties": {"data": {"type": "array", "items": _ref(MEMBER.title)}}})
    add = _operation(MEMBER, "create", "Add a member", {"201": _written(MEMBER)}, body="WorkspaceMemberCreate")
    change = _operation(MEMBER, "update", "Replace roles", {"200": _written(MEMBER)}, body="WorkspaceMemberUpdate")
    text = {"type": "string"}
    removed = _content({"type": "object", "properties": {"message": text, "id": text}})
    audit = _list(AUDIT_EVENT)
    audit["parameters"].append(_query("workspace", {"type": "string"}, "Events of this workspace alone"))
    return {
        routes_keys.PATH: {"get": keys, "post": one_key},
        routes_keys.PATH + VALIDATE: {"post": _validate(KEY) | {"requestBody": one_key["requestBody"]}},
        routes_keys.PATH + "/{id}": {
            "get": _one(KEY, "get", "Get one key without its value"),
            "delete": _operation(KEY, "delete", "Revoke a key for good", gone),
        },
        routes_members.PATH: {
            "get": _operation(MEMBER, "list", "List the members of a workspace", {"200": members}),
            "post": add | {"parameters": [wait]},
        },
        routes_members.PATH + "/{principal_id}": {
            "get": _one(MEMBER, "get", "Get one member"),
            "put": change | {"parameters": [wait]},
            "delete": _operation(MEMBER, "delete", "Take every role from a member", {"200": removed})
            | {"parameters": [wait]},
        },
        routes_audit.PATH: {"get": audit},
    }


def _access_schemas() -> Json:
    key, member = cast(Descriptor, KEY.message.DESCRIPTOR), cast(Descriptor, MEMBER.message.DESCRIPTOR)
    found = {
        resource.title: _object(cast(Descriptor, resource.message.DESCRIPTOR), resource.keys, writing=False)
        for resource in (KEY, MEMBER, AUDIT_EVENT)
    }
    shown = found[KEY.title]
    value: Json = {"value": {"type": "string", "description": "Told this once"}}
    roles = Key("roles", settable=True, required=True)
    return found | {
        "NewApiKey": shown | {"properties": shown["properties"] | value, "required": ["value"]},
        "KeyCreate": _object(key, KEY.settable, writing=True),
        "ApiKeyPage": _page(KEY),
        "AuditEventPage": _page(AUDIT_EVENT),
        "WorkspaceMemberCreate": _object(member, MEMBER.settable, writing=True),
        "WorkspaceMemberUpdate": _object(member, (roles,), writing=True),
    }


def _operation(resource: Resource, verb: str, summary: str, answers: Json, *, body: str = "") -> Json:
    operation: Json = {
        "tags": [resource.title],
        "operationId": f"{verb}_{resource.title}",
        "summary": summary,
        "responses": answers | _FAILURES,
    }
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return operation


def _plain_operation(name: str, summary: str, answer: Json) -> Json:
    return {
        "tags": ["Served"],
        "operationId": name,
        "summary": summary,
        "responses": {"200": answer} | _FAILURES,
    }


def _with_parameters(path: str, operations: Json) -> Json:
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    return operations | ({"parameters": named} if named else {})


def _query(name: str, schema: Json, description: str = "") -> Json:
    shown = {"description": description} if description else {}
    return {"name": name, "in": "query", "required": False, "schema": schema} | shown


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Json, description: str = "Done") -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _written(resource: Resource) -> Json:
    return _content(_ref(resource.title)) | {"headers": _REVISION}


_REVISION: Json = {"x-junctor-revision": {"description": "store:revision of the write", "schema": {"type": "string"}}}
_SERVED_MODEL: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
    "required": ["id", "object", "created", "owned_by"],
}
_ERROR: Json = {
    "type": "object",
    "properties": {
        "detail": {
            "description": "A text, or for a refused body one entry for each bad field",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}],
        },
        "error": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("message", "type", "code")},
        },
    },
    "required": ["detail"],
}
_FAILURES: Json = {
    "400": _content(_ref("Error"), "Malformed request"),
    "404": _content(_ref("Error"), "Not found"),
    "409": _content(_ref("Error"), "Taken, protected, or a stale resource_version"),
    "413": _content(_ref("Error"), "Body too large"),
    "422": _content(_ref("Error"), "A bad field"),
    "503": _content(_ref("Error"), "A service cannot be reached; try again"),
    "default": _content(_ref("Error"), "Any other failure"),
}
