"""A NeMo workspace, as its REST shows it, as documents. Pure: it is given the objects.

What the platform makes by itself (virtual models of served models, entities as discovery made them) is not written:
junctor makes it, too. Values of secrets leave no platform: they are named by variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from junctor import names
from junctor.declare import export
from junctor.declare.documents import Key, called
from junctor.declare.imported import Imported, Report
from junctor.declare.kinds import BY_NAME, KINDS, MODEL, PROVIDER, SECRET, VIRTUAL_MODEL

Json = Mapping[str, Any]

_MIDDLEWARE = ("request_middleware", "response_middleware", "post_response_middleware", "override_proxy")


def convert(current: Mapping[Key, Json]) -> Imported:
    """Convert what there is, in the order of apply. Never raises."""
    report = Report()
    documents = [
        document
        for kind in KINDS
        for key in sorted(key for key in current if key[0] == kind.name)
        for document in _one(key, current[key], report)
    ]
    return Imported(documents, report.entries)


def _one(key: Key, found: Json, report: Report) -> Iterator[dict[str, Any]]:
    kind, label = BY_NAME[key[0]], called(key)
    if kind.automatic(found):
        report.taken(label, why="junctor makes it by itself")
        return
    if not names.is_name(key[2]):
        report.lost(label, f"its name is refused here: {names.NAME_RULE}")
        return
    rule = _refused(found) if kind is PROVIDER else ""
    if rule:
        report.lost(label, rule)
        return
    document = export.document(key, found)
    if kind is SECRET:
        variable = "".join(letter if letter.isalnum() else "_" for letter in f"{key[1]}_{key[2]}").upper()
        document["value_from"] = {"env": variable}
        report.changed(label, label, f"no API returns its value: put it into the variable {variable}")
    else:
        report.taken(label, label)
    for field, why in _not_acted_on(key[0], found):
        report.lost(f"{label}: {field}", why)
    yield document


def _refused(provider: Json) -> str:
    try:
        parts = urlsplit(str(provider.get("host_url") or ""))
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        usable = False
    return "" if usable else "its host_url is no absolute http or https URL"


def _not_acted_on(kind: str, found: Json) -> Iterator[tuple[str, str]]:
    if kind == VIRTUAL_MODEL.name:
        for field in _MIDDLEWARE:
            if found.get(field):
                yield field, "is kept as text; junctor runs no middleware"
    if kind == PROVIDER.name and found.get("model_deployment_id"):
        yield "model_deployment_id", "is kept as text; junctor runs no deployments: the server has to be there"
    if kind == MODEL.name and found.get("adapters"):
        yield "adapters", "are not written by hand here: register the server that serves them"
