"""``junctor apply``, ``diff``, ``export`` and ``import`` against a running junctor, as a person uses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from junctor.cli.app import build
from tests.cluster import Cluster
from tests.upstream import ScriptedUpstream

Run = Callable[..., Awaitable[Result]]

CANARY = "sk-canary-5417"


@pytest.fixture
def junctor(cluster: Cluster, tmp_path: Path) -> Run:
    """Run a command against the cluster; it must end with ``code``."""
    unset: dict[str, str | None] = {f"JUNCTOR_{name}": None for name in ("WORKSPACE", "ACCESS_TOKEN", "OWNER")}
    own = {"JUNCTOR_BASE_URL": cluster.url, "JUNCTOR_CONFIG_FILE": str(tmp_path / "none"), "COLUMNS": "300"}

    def invoke(arguments: tuple[str, ...], stdin: str, environ: dict[str, str | None]) -> Result:
        return CliRunner().invoke(build(), arguments, input=stdin, env={**unset, **own, **environ}, prog_name="junctor")

    async def run(*arguments: str, stdin: str = "", code: int = 0, **environ: str | None) -> Result:
        done = await asyncio.to_thread(invoke, arguments, stdin, environ)
        assert done.exit_code == code, (done.output, done.exception)
        assert CANARY not in done.output
        return done

    return run


def results(done: Result) -> dict[str, str]:
    return {f"{row['kind']} {row['name']}": row["result"] for row in json.loads(done.stdout)["resources"]}


def changed(done: Result) -> dict[str, list[str]]:
    rows = json.loads(done.stdout)["resources"]
    return {f"{row['kind']} {row['name']}": row["fields"] for row in rows if row["result"] == "changed"}


async def store(cluster: Cluster, path: str) -> Any:
    answer = await cluster.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


LAB = "/apis/models/v2/workspaces/lab"

EVERYTHING = """\
kind: VirtualModel      # before what it needs: apply knows the order
name: fast
workspace: lab
labels: {team: search}
routing:
  policy: WEIGHTED
  targets:
    - {model: lab/test-model, weight: 3}
    - upstream: {provider: lab/up, upstream_id: test-model}
---
kind: Provider
name: up
workspace: lab
host_url: URL
api_key_secret_name: key
timeouts: {first_byte_ms: 60000}
default_extra_headers: {x-title: ours}
---
kind: Model
name: ours
workspace: lab
custom_fields: {nothing: null, many: [1, 2.5, on, 1:30, "ü"]}
---
kind: Secret
name: key
workspace: lab
value_from: {env: UP_KEY}
---
kind: Workspace
name: lab
description: Research
"""


@pytest.fixture
def file(tmp_path: Path, upstream: ScriptedUpstream) -> Path:
    path = tmp_path / "all.yaml"
    path.write_text(EVERYTHING.replace("URL", upstream.url))
    return path


async def test_apply_makes_what_the_files_say_and_then_changes_nothing(
    junctor: Run, cluster: Cluster, file: Path
) -> None:
    first = await junctor("apply", "-f", str(file), UP_KEY=CANARY)
    assert list(results(first).items()) == [
        ("Workspace lab", "created"),
        ("Secret key", "created"),
        ("Provider up", "created"),
        ("Model ours", "created"),
        ("VirtualModel fast", "created"),
    ]
    await cluster.provider_ready("up", workspace="lab")
    model = await store(cluster, f"{LAB}/models/ours")
    assert model["custom_fields"] == {"nothing": None, "many": [1, 2.5, "on", "1:30", "ü"]}
    asked = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
    answer = await cluster.http.post(
        "/apis/inference-gateway/v2/workspaces/lab/openai/-/v1/chat/completions", json=asked
    )
    assert answer.status_code == 200
    versions = [
        await store(cluster, f"{LAB}/providers/up"),
        await store(cluster, "/apis/secrets/v2/workspaces/lab/secrets/key"),
    ]
    again = await junctor("apply", "-f", str(file), UP_KEY=CANARY)
    assert set(results(again).values()) == {"unchanged"}
    assert [
        await store(cluster, f"{LAB}/providers/up"),
        await store(cluster, "/apis/secrets/v2/workspaces/lab/secrets/key"),
    ] == [versions[0] | {"last_attempt": Any_, "next_attempt": Any_}, versions[1]]
    other = await junctor("apply", "-f", str(file), UP_KEY=f"{CANARY}-new")
    assert changed(other) == {"Secret key": ["value"]}


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


Any_ = _Anything()


async def test_what_is_exported_is_applied_without_a_change(
    junctor: Run, cluster: Cluster, file: Path, upstream: ScriptedUpstream
) -> None:
    await junctor("apply", "-f", str(file), "--owner", "me", UP_KEY=CANARY)
    await cluster.provider_ready("up", workspace="lab")
    exported = await junctor("export", "-A")
    assert "autoprovisioned" not in exported.stdout
    documents = json.loads((await junctor("export", "-w", "lab", "-o", "json")).stdout)
    assert [(each["kind"], each["name"]) for each in documents] == [
        ("Workspace", "lab"),
        ("Secret", "key"),
        ("Provider", "up"),
        ("Model", "ours"),  # not test-model, which discovery made
        ("VirtualModel", "fast"),  # nor its virtual model
    ]
    assert set(results(await junctor("apply", "-f", "-", stdin=exported.stdout)).values()) == {"unchanged"}
    as_json = json.dumps(documents, indent="\t")
    assert set(results(await junctor("apply", "-f", "-", stdin=as_json)).values()) == {"unchanged"}
    await junctor("diff", "-f", "-", stdin=exported.stdout)


async def test_a_field_that_is_no_longer_named_goes_back_and_operators_fields_stay(
    junctor: Run, cluster: Cluster, file: Path
) -> None:
    await junctor("apply", "-f", str(file), UP_KEY=CANARY)
    await junctor("inference", "providers", "drain", "up", "-w", "lab")
    text = file.read_text()
    for line in ("timeouts", "default_extra_headers", "custom_fields", "labels", "description"):
        text = "\n".join(each for each in text.splitlines() if not each.startswith(line))
    file.write_text(text.replace("weight: 3", "weight: 5") + "\n")
    told = await junctor("diff", "-f", str(file), "-o", "table", code=3)
    assert "    routing.targets[0].weight: 3 -> 5" in told.stdout
    assert '    description: "Research" -> null' in told.stdout
    assert changed(await junctor("apply", "-f", str(file), UP_KEY=CANARY)) == {
        "Workspace lab": ["description"],
        "Provider up": ["default_extra_headers", "timeouts"],
        "Model ours": ["custom_fields"],
        "VirtualModel fast": ["routing", "labels"],
    }
    provider = await store(cluster, f"{LAB}/providers/up")
    assert (provider["timeouts"], provider["admin_state"]) == (None, "DRAINING")
    assert (await store(cluster, f"{LAB}/models/ours"))["custom_fields"] == {}
    await junctor("diff", "-f", str(file))


async def test_prune_deletes_what_has_the_owner_and_is_in_no_file(junctor: Run, cluster: Cluster, file: Path) -> None:
    await junctor("apply", "-f", str(file), "--owner", "me", UP_KEY=CANARY)
    await cluster.http.post(f"{LAB}/models", json={"name": "by-hand"})
    file.write_text("kind: Workspace\nname: lab\n")
    assert (await junctor("apply", "-f", str(file), "--prune", code=2)).stderr.count("--owner")
    planned = await junctor("apply", "-f", str(file), "--prune", "--owner", "me", "--dry-run")
    assert await store(cluster, f"{LAB}/models/ours")
    done = await junctor("apply", "-f", str(file), "--prune", "--owner", "me")
    assert list(results(done).items()) == list(results(planned).items())
    assert list(results(done).items()) == [
        ("Workspace lab", "changed"),
        ("VirtualModel fast", "pruned"),
        ("Model ours", "pruned"),
        ("Provider up", "pruned"),
        ("Secret key", "pruned"),
    ]
    assert await store(cluster, f"{LAB}/models/by-hand")
    file.write_text("# nothing\n")
    refused = await junctor("apply", "-f", str(file), "--prune", "--owner", "me", code=1)
    assert "--allow-empty" in refused.stderr
    gone = await junctor("apply", "-f", str(file), "--prune", "--owner", "me", "--allow-empty")
    assert results(gone) == {"Workspace lab": "pruned"}


async def test_another_owners_resource_is_left_alone_until_it_is_taken_over(
    junctor: Run, cluster: Cluster, file: Path
) -> None:
    file.write_text("kind: Model\nname: ours\n")
    await junctor("apply", "-f", str(file), "--owner", "me")
    refused = await junctor("apply", "-f", str(file), "--owner", "you", code=1)
    assert f"{file}, document 1, line 2: name: Model default/ours belongs to the configuration 'me'" in refused.stderr
    await junctor("apply", "-f", str(file), "--owner", "you", "--take-over")
    there = await store(cluster, "/apis/models/v2/workspaces/default/models/ours")
    assert there["labels"] == {"junctor/owner": "you"}
    assert set(results(await junctor("apply", "-f", str(file))).values()) == {"unchanged"}


BAD = """\
kind: Workspace
name: fresh
---
kind: Provider
name: near
workspace: fresh
host_url: ftp://nowhere
timeouts:
  connect_ms: soon
---
kind: VirtualModel
name: fast
routing:
  targets:
    - {model: default/aa}
    - {model: nonsense}
"""


async def test_a_bad_file_changes_nothing_and_every_error_has_its_place(
    junctor: Run, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    told = (await junctor("apply", "-f", str(path), code=1)).stderr.splitlines()
    assert told == [
        f"{path}, document 2, line 7: host_url: must be an absolute http or https URL",
        f"{path}, document 2, line 9: timeouts.connect_ms: Input should be a valid integer",
        f"{path}, document 3, line 16: routing.targets[1].model: must be written as workspace/name",
        "junctor: nothing was changed: 3 problems",
    ]
    assert (await cluster.http.get("/apis/entities/v2/workspaces/fresh")).status_code == 404


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "kind: Provider\nname: near\nhost_url: http://h\nhosturl: x\n",
            "line 4: hosturl: is no field of a Provider; is host_url meant?",
        ),
        (
            "kind: Provider\nname: near\nhost_url: http://h\nstatus: READY\n",
            "line 4: status: is set by the server: leave it out",
        ),
        (
            "kind: Provider\nname: near\nhost_url: http://h\napi_key_secret_name: no-such\n",
            "line 4: api_key_secret_name: there is no secret 'no-such'",
        ),
        ("kind: Model\nname: near\nworkspace: no-such\n", "line 3: workspace: there is no workspace 'no-such'"),
        ("kind: Secret\nname: near\n", "line 1: value_from: must be given: there is no secret default/near yet"),
        ("kind: Secret\nname: near\nvalue: text\n", "line 3: value: must not be in a file"),
        (
            "kind: Secret\nname: near\nvalue_from: {env: NOT_SET_HERE}\n",
            "line 3: value_from.env: the variable NOT_SET_HERE is not set",
        ),
        (
            "kind: Secret\nname: near\nvalue_from: {file: no-such}\n",
            "line 3: value_from.file: cannot read no-such: No such file or directory",
        ),
        (
            "kind: Model\nname: near\n---\nkind: Model\nname: near\n",
            "document 2, line 5: name: Model default/near is already in",
        ),
        ("kind: Model\nname: near\nlabels: {'not this': x}\n", "line 3: labels: must have names by the rule"),
        (
            "kind: Modle\nname: near\n",
            "kind: must be one of Workspace, Secret, Provider, Model, VirtualModel; is Model meant?",
        ),
        (
            "kind: Model\nname: near\nresource_version: '7'\n",
            "line 3: resource_version: is of a resource that is not there",
        ),
        ("kind: Model\nname: [near\n", "is no YAML"),
    ],
    ids=lambda value: value.partition(":")[0] if value.startswith(("line", "is", "kind: must")) else "",
)
async def test_what_is_wrong_is_told_with_its_line(junctor: Run, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    done = await junctor("apply", "-f", str(path), code=1)
    assert told in done.stderr
    assert "nothing was changed" in done.stderr


async def test_a_secret_comes_from_a_file_beside_the_documents_or_inline_when_that_is_allowed(
    junctor: Run, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "key.txt").write_text(CANARY + "\n")
    (tmp_path / "secrets.yml").write_text("kind: Secret\nname: aa\nvalue_from: {file: key.txt}\n")
    (tmp_path / "inline.json").write_text(json.dumps({"kind": "Secret", "name": "bb", "value": CANARY}))
    done = await junctor("apply", "-f", str(tmp_path), "--inline-secrets")
    assert results(done) == {"Secret aa": "created", "Secret bb": "created"}
    again = await junctor("apply", "-f", str(tmp_path), "--inline-secrets")
    assert set(results(again).values()) == {"unchanged"}


async def test_who_was_overtaken_is_told_and_writes_nothing(junctor: Run, cluster: Cluster, file: Path) -> None:
    await junctor("apply", "-f", str(file), UP_KEY=CANARY)
    exported = (await junctor("export", "-w", "lab", "--kind", "Model", "--with-versions")).stdout
    await cluster.http.patch(f"{LAB}/models/ours", json={"description": "theirs"})
    done = await junctor("apply", "-f", "-", stdin=exported, code=1)
    assert "resource_version: is " in done.stderr
    assert (await store(cluster, f"{LAB}/models/ours"))["description"] == "theirs"


async def test_a_write_between_reading_and_writing_fails_that_resource_alone(
    cluster: Cluster, tmp_path: Path, junctor: Run
) -> None:
    """A proxy changes the model of somebody else at the very moment in which apply is about to write."""
    (tmp_path / "two.yaml").write_text("kind: Model\nname: aa\ndescription: x\n---\nkind: Model\nname: bb\n")
    await cluster.http.post("/apis/models/v2/workspaces/default/models", json={"name": "aa", "description": "old"})

    async def overtake(data: bytes) -> bool:
        if data.startswith(b"PATCH "):
            await cluster.http.patch("/apis/models/v2/workspaces/default/models/aa", json={"description": "theirs"})
        return False

    async with between(cluster.url, overtake) as url:
        done = await junctor("apply", "-f", str(tmp_path / "two.yaml"), code=1, JUNCTOR_BASE_URL=url)
    rows = {row["name"]: row for row in json.loads(done.stdout)["resources"]}
    assert rows["aa"]["result"] == "failed"
    assert rows["aa"]["why"] == "somebody changed it since it was read: look at it, then run this again"
    assert rows["bb"]["result"] == "created"
    assert (await store(cluster, "/apis/models/v2/workspaces/default/models/aa"))["description"] == "theirs"


@asynccontextmanager
async def between(target: str, refuses: Callable[[bytes], Awaitable[bool]]) -> AsyncIterator[str]:
    """Forward HTTP to ``target``; ``refuses`` sees each piece first, and may have the request answered with 403."""
    host, _, port = target.removeprefix("http://").partition(":")

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        returning = asyncio.create_task(back(up_reader, writer))
        while data := await reader.read(65536):
            if await refuses(data):
                writer.write(FORBIDDEN)
                break
            up_writer.write(data)
        up_writer.close()
        await returning
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


FORBIDDEN = (
    b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 22\r\n"
    b'content-type: application/json\r\n\r\n{"detail":"Forbidden"}'
)


async def test_a_virtual_model_that_junctor_made_becomes_the_files(
    junctor: Run, cluster: Cluster, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    await cluster.add_provider("up", upstream.url)
    text = "kind: VirtualModel\nname: test-model\ndefault_model_entity: default/test-model\n"
    assert results(await junctor("apply", "-f", "-", stdin=text)) == {"VirtualModel test-model": "created"}
    path = "/apis/inference-gateway/v2/workspaces/default/virtual-models/test-model"
    assert (await store(cluster, path))["autoprovisioned"] is False
    assert "name: test-model" in (await junctor("export", "--kind", "VirtualModel")).stdout


async def test_what_needs_a_failed_resource_is_skipped(junctor: Run, cluster: Cluster, tmp_path: Path) -> None:
    """The workspace vanishes from the store's view: a proxy refuses to make it."""
    text = "kind: Workspace\nname: gone\n---\nkind: Model\nname: ours\nworkspace: gone\n---\nkind: Model\nname: other\n"

    async def refuse(data: bytes) -> bool:
        return data.startswith(b"POST /apis/entities/v2/workspaces HTTP")

    async with between(cluster.url, refuse) as url:
        done = await junctor("apply", "-f", "-", stdin=text, code=1, JUNCTOR_BASE_URL=url)
    rows = {row["name"]: (row["result"], row["why"]) for row in json.loads(done.stdout)["resources"]}
    assert rows["gone"][0] == "failed"
    assert rows["ours"] == ("skipped", "Workspace gone failed")
    assert rows["other"][0] == "created"
