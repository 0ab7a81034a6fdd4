"""Alerts and dashboards: sound by Prometheus' own judgement, and about metrics that processes really have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import running
from tests.upstream import Json, ScriptedUpstream, Sse

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}

_METRIC = re.compile(r"\b(?:junctor|gen_ai|http_server|process)_[a-z_]+\b(?![a-z_]*\s*[=!]~?)")
_LABEL_LISTS = re.compile(r"\b(?:by|on|without|ignoring|group_left)\s*\([^)]*\)|\{[^}]*\}|label_values\(|\"[^\"]*\"")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Every expression, with where it stands."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


def metrics_of(expression: str) -> set[str]:
    return set(_METRIC.findall(_LABEL_LISTS.sub(" ", expression)))


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("NOTHING WAS CHECKED: there is no promtool (Debian's package prometheus); tests/compat/promtool.sh")
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=DEPLOY)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules_and_they_fire_when_they_should(promtool: str) -> None:
    run(promtool, "check", "rules", "alerts.yaml")
    run(promtool, "test", "rules", "alerts_test.yaml")
    tested = {test["name"] for test in yaml.safe_load((DEPLOY / "alerts_test.yaml").read_text())["tests"]}
    assert tested == {rule["alert"] for rule in rules()}


def test_promtool_takes_every_query_of_the_dashboards(promtool: str, tmp_path: Path) -> None:
    variables = {"$__rate_interval": "1m", "$provider": ".*"}
    recorded = []
    for number, (_, expression) in enumerate(queries()):
        plain = expression
        for name, value in variables.items():
            plain = plain.replace(name, value)
        recorded.append({"record": f"query:{number}", "expr": plain})
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    run(promtool, "check", "rules", file)


async def exported(folder: Path) -> set[str]:
    """Names of the families that a running ``up`` has, with the suffixes of histograms; keys and TLS included."""
    async with (
        ScriptedUpstream(default=Json(200, {})) as collector,
        ScriptedUpstream() as upstream,
        running(folder, otlp_endpoint=collector.url) as cluster,
    ):
        whole, stream = Json(200, {"model": "test-model", "usage": USAGE}), Sse([{"choices": [], "usage": USAGE}])
        upstream.script(whole, stream, path="/v1/chat/completions")
        await cluster.add_provider("one", upstream.url)
        for streams in (False, True):
            body: dict[str, object] = {"model": "default/test-model", "messages": [], "stream": streams}
            assert (await cluster.http.post("/v1/chat/completions", json=body)).status_code == 200
        families = cluster.node.families()
    names = set()
    for family in families:
        suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        names |= {family.name + suffix for suffix in suffixes}
    return names


ELSEWHERE = {"junctor_key_expiry_timestamp_seconds", "junctor_tls_certificate_not_after_timestamp_seconds"}
"""Made only with auth, and with TLS."""


def test_what_only_auth_and_tls_make_is_made() -> None:
    code = "".join(path.read_text() for path in (DEPLOY.parent / "services").rglob("*.py"))
    assert all(f'Family("{name}"' in code for name in ELSEWHERE)


async def test_every_metric_of_an_alert_or_a_dashboard_is_exported(tmp_path: Path) -> None:
    there = await exported(tmp_path) | ELSEWHERE
    page = (DEPLOY.parent / "docs" / "observability.md").read_text()
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in there if not name.startswith("process_")}
    assert not {name for name in families if f"`{name}`" not in page}
    missing = {(where, metric) for where, expression in queries() for metric in metrics_of(expression) - there}
    assert not missing
    assert len({metric for _, expression in queries() for metric in metrics_of(expression)}) > 30


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_rule_says_what_how_bad_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    anchor = re.sub(r"(?<!^)(?=[A-Z])", "-", rule["alert"]).lower()
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{anchor}"
    headings = re.findall(r"^#+ (.+)$", (DEPLOY.parent / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert rule["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboards_panels_are_whole_and_lie_side_by_side(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == f"junctor-{path.stem}"
    assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
