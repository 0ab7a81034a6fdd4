"""Labels on every resource, and writes that are checked but not made, over REST."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from tests.cluster import Cluster, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKSPACES = "/apis/entities/v2/workspaces"
SECRETS = "/apis/secrets/v2/workspaces/default/secrets"
MODELS = "/apis/models/v2/workspaces/default/models"
PROVIDERS = "/apis/models/v2/workspaces/default/providers"
VIRTUAL = "/apis/inference-gateway/v2/workspaces/default/virtual-models"

KINDS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "workspace": (WORKSPACES, "PUT", {}, {"description": "d"}),
    "secret": (SECRETS, "PATCH", {"value": "v"}, {"description": "d"}),
    "model": (MODELS, "PATCH", {}, {"description": "d"}),
    "provider": (PROVIDERS, "PUT", {"host_url": "http://h.example"}, {"host_url": "http://g.example"}),
    "virtual model": (VIRTUAL, "PATCH", {}, {"description": "d"}),
}
"""Path, how it is changed, what a create needs, and a change that does not name labels."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with running(tmp_path_factory.mktemp("labels")) as started:
        yield started


@pytest.mark.parametrize("kind", KINDS)
async def test_labels_are_kept_replaced_and_cleared(cluster: Cluster, kind: str) -> None:
    path, method, needed, change = KINDS[kind]
    one = f"{path}/labelled"
    made = await cluster.http.post(path, json={"name": "labelled", "labels": {"team": "a"}, **needed})
    assert (made.status_code, made.json()["labels"]) == (201, {"team": "a"})
    kept = await cluster.http.request(method, one, json=change)  # by a client that does not know them
    assert (kept.status_code, kept.json()["labels"]) == (200, {"team": "a"})
    replaced = await cluster.http.request(method, one, json=change | {"labels": {"b/c": "x y"}})
    assert replaced.json()["labels"] == {"b/c": "x y"}
    cleared = await cluster.http.request(method, one, json=change | {"labels": {}})
    assert cleared.json()["labels"] is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({"not this": "x"}, "labels"),
        ({"long": "x" * 256}, "labels.long"),
        ({"line": "x\ny"}, "labels.line"),
        ({f"n{index}": "x" for index in range(33)}, "labels"),
        ({"number": 7}, "labels.number"),
    ],
    ids=["name", "long", "control", "many", "no text"],
)
async def test_bad_labels_are_refused(cluster: Cluster, kind: str, labels: dict[str, Any], field: str) -> None:
    path, _, needed, _ = KINDS[kind]
    answer = await cluster.http.post(path, json={"name": "refused", "labels": labels, **needed})
    assert answer.status_code == 422
    assert ".".join(map(str, answer.json()["detail"][0]["loc"][1:])) == field
    assert (await cluster.http.get(f"{path}/refused")).status_code == 404


@pytest.mark.parametrize("kind", KINDS)
async def test_a_checked_create_is_answered_in_full_and_not_made(cluster: Cluster, kind: str) -> None:
    path, _, needed, _ = KINDS[kind]
    answer = await cluster.http.post(f"{path}/-/validate", json={"name": "checked", "description": "d", **needed})
    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["description"]) == ("checked", "d")
    assert "value" not in answer.json()
    assert (await cluster.http.get(f"{path}/checked")).status_code == 404
    bad = await cluster.http.post(f"{path}/-/validate", json={"name": "Not A Name", **needed})
    assert bad.status_code == 422


@pytest.mark.parametrize("kind", ["model", "virtual model"])
async def test_null_clears_only_when_that_is_asked_for(cluster: Cluster, kind: str) -> None:
    path, _, needed, _ = KINDS[kind]
    await cluster.http.post(path, json={"name": "cleared", "project": "p", **needed})
    kept = await cluster.http.patch(f"{path}/cleared", json={"project": None})
    assert kept.json()["project"] == "p"
    cleared = await cluster.http.patch(f"{path}/cleared?null=clear", json={"project": None})
    assert cleared.json()["project"] is None


async def test_writing_a_secret_as_it_is_changes_nothing(cluster: Cluster) -> None:
    body = {"value": "same", "description": "d", "labels": {"a": "b"}}
    made = (await cluster.http.post(SECRETS, json={"name": "same", **body})).json()
    again = await cluster.http.patch(f"{SECRETS}/same", json=body)
    assert again.json() == made
    other = (await cluster.http.patch(f"{SECRETS}/same", json={"value": "other"})).json()
    assert other["resource_version"] != made["resource_version"]
