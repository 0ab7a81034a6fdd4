"""``junctor keys``, ``members`` and ``audit`` against a running junctor, and the same by the clients."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from junctor import AsyncClient
from junctor.cli.keys import moment, role_of, tags_of
from junctor.errors import ResourceNotFound
from tests.cluster import Cluster
from tests.e2e.processes import PATIENCE, ROOT
from tests.e2e.test_cli_commands import Run, junctor

__all__ = ["junctor"]

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_key_from_create_to_revoke(junctor: Run) -> None:
    bounds = ("--rpm", "60", "--tpm", "9", "--concurrency", "2", "--budget", "2.5/day", "--scope", "infer")
    flags = ("--expires", "30d", "--models", "gpt-*", "--models", "lab/*", *bounds)
    more = ("--tag", "team=search", "--description", "ci")
    done = await junctor("keys", "create", "--role", "viewer", *flags, *more)
    made = json.loads(done.stdout)
    budget = {"micros": 2_500_000, "period": "day"}
    limits = {"requests_per_minute": 60, "tokens_per_minute": 9, "concurrency": 2, "budget": budget}
    wanted = {"role": "Viewer", "models": ["gpt-*", "lab/*"], "limits": limits, "scopes": ["infer"]}
    assert made == made | wanted | {"tags": {"team": "search"}, "workspace": "default", "description": "ci"}
    assert made["value"].startswith("jnct_")
    assert done.stderr == "Keep the value now: it is not shown again.\n"
    everywhere = json.loads((await junctor("keys", "create", "--role", "platform-admin")).stdout)
    assert everywhere["workspace"] is None
    shown = [
        await junctor("keys", "list"),
        await junctor("keys", "list", "-o", "table"),
        await junctor("keys", "get", made["id"], "-o", "yaml"),
        await junctor("audit", "list", "-o", "json"),
    ]
    assert all(each["value"] not in done.output for done in shown for each in (made, everywhere))
    assert {key["id"] for key in json.loads(shown[0].stdout)["data"]} == {made["id"], everywhere["id"]}
    mine = json.loads((await junctor("-w", "default", "keys", "list", "--filter", "role:Viewer")).stdout)
    assert [key["id"] for key in mine["data"]] == [made["id"]]
    assert (await junctor("keys", "revoke", made["id"])).stderr == f"key {made['id']} revoked\n"
    left = json.loads((await junctor("keys", "list")).stdout)["data"]
    ended = json.loads((await junctor("keys", "list", "--ended")).stdout)["data"]
    assert ([key["id"] for key in left], len(ended)) == ([everywhere["id"]], 2)
    assert "API key 'nope' not found" in (await junctor("keys", "revoke", "nope", code=1)).stderr
    for wrong in (("Boss",), ("PlatformAdmin", "-w", "lab"), ("Viewer", "--expires", "soon"), ("Viewer", "--tag", "x")):
        await junctor("keys", "create", "--role", *wrong, code=2)


async def test_a_member_from_create_to_delete(junctor: Run) -> None:
    made = json.loads(
        (await junctor("members", "create", "a@x.example", "--role", "Editor", "--role", "viewer")).stdout
    )
    assert (made["principal"], made["roles"]) == ("a@x.example", ["Viewer", "Editor"])
    assert "already exists" in (await junctor("members", "create", "a@x.example", "--role", "Admin", code=1)).stderr
    same = await junctor("members", "create", "a@x.example", "--role", "Admin", "--exist-ok")
    assert json.loads(same.stdout) == made
    assert json.loads((await junctor("members", "update", "a@x.example", "--role", "Admin")).stdout)["roles"] == [
        "Admin"
    ]
    assert "a@x.example" in (await junctor("members", "list", "-o", "table")).stdout
    assert json.loads((await junctor("members", "get", "a@x.example")).stdout)["roles"] == ["Admin"]
    assert (await junctor("members", "delete", "a@x.example")).stderr == "member a@x.example removed\n"
    assert json.loads((await junctor("members", "list")).stdout) == {"data": []}
    assert json.loads((await junctor("-w", "system", "members", "list")).stdout)["data"][0]["principal"] == "*"


async def test_a_tail_prints_each_event_once_as_it_comes(cluster: Cluster, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "JUNCTOR_BASE_URL": cluster.url, "HOME": str(tmp_path)}
    program = "from junctor.cli import main; main()"
    tail = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-c", program, "audit", "tail", "-n", "1", "--filter", "kind:member"),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
    )
    assert tail.stdout is not None
    members = "/apis/entities/v2/workspaces/default/members"
    try:
        async with asyncio.timeout(PATIENCE):
            names = [json.loads(await tail.stdout.readline())["name"]]
            for name in ("jane", "john"):
                (await cluster.http.post(members, json={"principal": name, "roles": ["Viewer"]})).raise_for_status()
                names.append(json.loads(await tail.stdout.readline())["name"])
    finally:
        tail.kill()
        await tail.wait()
    assert names == ["*", "jane", "john"]


async def test_the_clients_make_and_read_the_same(cluster: Cluster) -> None:
    async with AsyncClient(cluster.url) as client:
        made = await client.keys.create(
            "Editor", workspace="default", models=["gpt-*"], expires_at=NOW + timedelta(9**4)
        )
        assert made.value.startswith(str(made.prefix))
        assert made.value not in repr(made)
        assert (await client.keys.get(made.id)).expires_at == NOW + timedelta(9**4)
        assert [key.id async for key in client.keys.list()] == [made.id]
        await client.keys.revoke(made.id)
        assert [key.id async for key in client.keys.list()] == []
        assert [key.revoked_at is not None async for key in client.keys.list(show_ended=True)] == [True]
        member = await client.members.create("group:a/b", ["Admin"])
        assert await client.members.list() == (member,)
        changed = await client.members.update("group:a/b", ["Viewer"], resource_version=member.resource_version)
        assert (changed.roles, await client.members.get("group:a/b")) == (("Viewer",), changed)
        await client.members.delete("group:a/b")
        with pytest.raises(ResourceNotFound):
            await client.members.get("group:a/b")
        events = [
            event async for event in client.audit.list(filter={"kind": "member"}, workspace="default", page_size=2)
        ]
    assert [event.action for event in events] == ["DELETE", "UPDATE", "CREATE"]
    assert events[0].before is not None
    assert events[0].before["roles"] == ["VIEWER"]


EXPIRES = {
    "30d": "2026-01-31T00:00:00+00:00",
    "12h": "2026-01-01T12:00:00+00:00",
    "90m": "2026-01-01T01:30:00+00:00",
    "2w": "2026-01-15T00:00:00+00:00",
    "2030-02-03": "2030-02-03T00:00:00+00:00",
    "2030-02-03T04:05:06+02:00": "2030-02-03T04:05:06+02:00",
}


@pytest.mark.parametrize("text", EXPIRES)
def test_when_a_key_ends(text: str) -> None:
    assert moment(text, now=NOW) == EXPIRES[text]


@pytest.mark.parametrize("text", ["soon", "30", "999999w", "2030-13-01", "-1d"])
def test_what_is_no_moment_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        moment(text, now=NOW)


def test_roles_and_tags_as_people_write_them() -> None:
    assert [role_of(text) for text in ("viewer", "PLATFORM_ADMIN", "Platform-Admin")] == [
        "Viewer",
        "PlatformAdmin",
        "PlatformAdmin",
    ]
    assert tags_of(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    with pytest.raises(typer.BadParameter):
        tags_of(["=x"])


async def test_limits_of_a_workspace_are_set_kept_and_lifted(junctor: Run) -> None:
    await junctor("workspaces", "create", "limited", "--description", "kept")
    await junctor("workspaces", "update", "limited", "--rpm", "600", "--budget", "50/month")
    done = await junctor("workspaces", "update", "limited", "--tpm", "9")
    budget = {"micros": 50_000_000, "period": "month"}
    limits = {"requests_per_minute": 600, "tokens_per_minute": 9, "concurrency": None, "budget": budget}
    shown = json.loads(done.stdout)
    assert (shown["limits"], shown["description"]) == (limits, "kept")
    assert json.loads((await junctor("workspaces", "get", "limited")).stdout)["limits"] == limits
    lifted = json.loads((await junctor("workspaces", "update", "limited", "--no-limits")).stdout)
    assert (lifted["limits"], lifted["description"]) == (None, "kept")
