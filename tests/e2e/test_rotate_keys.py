"""``junctor admin rotate-keys`` beside a running junctor: nobody notices, and the old key is worth nothing after it."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from services.provider_registry.secret_store import VALUES
from services.provider_registry.secrets import Keyring, Sealed, ValueUnreadable, identity_of
from tests.cluster import Access, running, until
from tests.e2e.processes import Process, deployment, status_is
from tests.e2e.registries import REGISTRIES, migrate
from tests.upstream import ScriptedUpstream

MARK = "sk-nobody-must-see-this"
MODELS = "/apis/models/v2/workspaces/default"
SECRETS = "/apis/secrets/v2/workspaces/default/secrets"
IDLE = 120
"""Secrets that nobody touches: more than fit into one transaction of the rotation."""


def rotation(folder: Path, *flags: str, **environ: str) -> Process:
    """The command with the settings of :func:`tests.cluster.running`."""
    given = {"JUNCTOR_SECRET_KEY_FILE": str(folder / "config" / "secret.key")} | environ
    data = ("--data-dir", str(folder / "data"))
    return Process("junctor", "admin", "rotate-keys", *data, *flags, folder=folder / "command", environ=given)


def keys(folder: Path) -> dict[str, bytes]:
    lines = (folder / "config" / "secret.key").read_text().splitlines()
    return {entry["id"]: base64.b64decode(entry["key"]) for entry in map(json.loads, lines)}


def rows(folder: Path) -> list[tuple[bytes, Sealed]]:
    """Identity and stored value of every secret."""
    columns = ", ".join(f"v.{column.name}" for column in VALUES.c)
    statement = f"SELECT s.workspace, s.name, {columns} FROM secrets s JOIN secret_values v ON v.secret_id = s.id"
    with closing(sqlite3.connect(folder / "data" / "provider_registry.sqlite")) as store:
        return [(identity_of(w, n, i), Sealed(*sealed)) for w, n, i, *sealed in store.execute(statement)]


@asynccontextmanager
async def load(*works: Callable[[int], Awaitable[None]]) -> AsyncIterator[list[int]]:
    """Do each work over and over within the block; its counts are what was done so far."""
    counts, end = [0] * len(works), asyncio.Event()

    async def repeat(number: int) -> None:
        while not end.is_set():
            await works[number](counts[number])
            counts[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(len(works)):
            group.create_task(repeat(number))
        try:
            yield counts
        finally:
            end.set()


async def add_secret(access: Access, name: str, value: str) -> None:
    created = await access.http.post(SECRETS, json={"name": name, "value": value})
    assert created.status_code == 201, created.text


async def test_no_call_and_no_write_fails_while_the_key_is_rotated(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with running(tmp_path) as cluster:
        for number in range(IDLE):
            await add_secret(cluster, f"idle-{number}", f"{MARK}-idle-{number}")
        await add_secret(cluster, "mine", f"{MARK}-mine-0")
        await cluster.add_provider("up", upstream.url, api_key_secret_name="mine")
        model = (await cluster.http.get("/v1/models")).json()["data"][0]["id"]

        async def call(_: int) -> None:
            answer = await cluster.http.post("/v1/chat/completions", json={"model": model, "messages": []})
            assert answer.status_code == 200, answer.text

        async def change(turn: int) -> None:
            changed = await cluster.http.patch(f"{SECRETS}/mine", json={"value": f"{MARK}-mine-{turn + 1}"})
            assert changed.status_code == 200, changed.text

        async def add(turn: int) -> None:
            await add_secret(cluster, f"new-{turn}", f"{MARK}-new-{turn}")
            deleted = await cluster.http.delete(f"{SECRETS}/new-{turn}")
            assert deleted.status_code in (200, 204), deleted.text

        old_keys, old_rows = keys(tmp_path), dict(rows(tmp_path))
        async with load(call, change, add) as counts:
            for _ in range(2):
                command = rotation(tmp_path)
                assert await command.run() == 0, command.stderr
                before = [count + 1 for count in counts]  # one of each begins after the old key is gone
                await until(lambda before=before: _all_past(counts, before))
        new_keys = keys(tmp_path)
        assert len(new_keys) == 1
        assert not new_keys.keys() & old_keys.keys()
        await _upstream_gets(cluster, upstream, model, f"{MARK}-mine-{counts[1]}")

    ring, (old_key,) = Keyring(new_keys), old_keys.values()
    stored = rows(tmp_path)
    assert len(stored) == IDLE + 1
    for identity, sealed in stored:
        assert ring.open(sealed, identity).reveal().startswith(MARK)
        for thief in (Keyring(old_keys), Keyring({sealed.key_id: old_key})):
            with pytest.raises(ValueUnreadable):
                thief.open(sealed, identity)
    left = b"".join(file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())
    assert MARK.encode() not in left
    with closing(sqlite3.connect(tmp_path / "data" / "provider_registry.sqlite")) as store:
        assert MARK not in "\n".join(store.iterdump())
    idle = {identity for identity, _ in stored} & {i for i, s in old_rows.items() if b"idle-" in i}
    assert len(idle) == IDLE
    assert [identity for identity in idle if old_rows[identity].wrapped_key in left] == []


async def test_no_inference_call_of_real_processes_fails_while_the_key_is_rotated(
    tmp_path: Path, request: pytest.FixtureRequest, engine: str, upstream: ScriptedUpstream
) -> None:
    key_file = tmp_path / "config" / "secret.key"
    environ = {"JUNCTOR_SECRET_KEY_FILE": str(key_file)}
    if engine == "postgresql":
        environ["JUNCTOR_DATABASE_URL"] = request.getfixturevalue("postgres_url")
        await migrate(tmp_path, environ["JUNCTOR_DATABASE_URL"])
    async with deployment(tmp_path, REGISTRIES, ("inference-router", "gateway")) as made:
        for process in made.processes.values():
            process.environ |= environ
        await made.start(order=random.Random(1))
        await made.http_ready()
        async with made.access() as access:
            await until(lambda: status_is(access.http, SECRETS, 200))
            await add_secret(access, "mine", f"{MARK}-mine")
            await access.add_provider("up", upstream.url, api_key_secret_name="mine")
            model = (await access.http.get("/v1/models")).json()["data"][0]["id"]

            async def call(_: int) -> None:
                answer = await access.http.post("/v1/chat/completions", json={"model": model, "messages": []})
                assert answer.status_code == 200, answer.text
                assert upstream.requests[-1].header("authorization") == f"Bearer {MARK}-mine"

            (old,) = keys(tmp_path)
            async with load(call) as counts:
                data = ("--data-dir", str(tmp_path / REGISTRIES[0] / "data"))
                folder = tmp_path / "command"
                command = Process("junctor", "admin", "rotate-keys", *data, folder=folder, environ=environ)
                assert await command.run() == 0, command.stderr
                await until(lambda before=counts[0] + 5: _all_past(counts, [before]))
            assert list(keys(tmp_path)) != [old]
            assert key_file.stat().st_mode & 0o777 == 0o600
            for process in made.processes.values():
                assert MARK not in process.stderr + process.stdout


async def _all_past(counts: list[int], before: list[int]) -> bool:
    return all(count > bound for count, bound in zip(counts, before, strict=True))


async def _upstream_gets(access: Access, upstream: ScriptedUpstream, model: str, key: str) -> None:
    async def sent() -> bool:
        await access.http.post("/v1/chat/completions", json={"model": model, "messages": []})
        return upstream.requests[-1].header("authorization") == f"Bearer {key}"

    await until(sent)


async def test_the_old_key_can_be_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await add_secret(cluster, "mine", MARK)
        (old,) = keys(tmp_path)
        command = rotation(tmp_path, "--keep-old")
        assert await command.run() == 0, command.stderr
        first, second = keys(tmp_path)
        assert first == old
        assert f"New key {second}: 1 secrets wrapped anew; kept {old}." in command.stdout
        assert {sealed.key_id for _, sealed in rows(tmp_path)} == {second}


async def test_a_secret_that_cannot_be_read_keeps_the_old_key_and_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await add_secret(cluster, "good", MARK)
        await add_secret(cluster, "bad", MARK)
    with closing(sqlite3.connect(tmp_path / "data" / "provider_registry.sqlite")) as store:
        of_bad = "secret_id = (SELECT id FROM secrets WHERE name = 'bad')"
        store.execute(f"UPDATE secret_values SET wrapped_key = zeroblob(60) WHERE {of_bad}")
        store.commit()
    (old,) = keys(tmp_path)
    command = rotation(tmp_path)
    assert await command.run() == 1
    assert "(default/bad)" in command.stderr
    assert old in keys(tmp_path)
    assert sorted(sealed.key_id != old for _, sealed in rows(tmp_path)) == [False, True]


@pytest.mark.parametrize(
    ("flags", "environ", "code", "text"),
    [
        (["--data-dir", "nowhere"], {}, 1, "there is no store"),
        ([], {"JUNCTOR_SECRET_KEY_FILE": "nowhere/secret.key"}, 1, "cannot use the secret key file nowhere/secret.key"),
        (["--database-url", "postgresql://u:pw@127.0.0.1:1/x"], {}, 1, "cannot reach the database x on 127.0.0.1"),
        (["--database-url", "mysql://u:pw@h/x"], {}, 2, "--database-url: must be postgresql://"),
    ],
    ids=["no store", "no key file", "no database", "bad usage"],
)
async def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, flags: list[str], environ: dict[str, str], code: int, text: str
) -> None:
    async with running(tmp_path):
        before = keys(tmp_path)
        command = rotation(tmp_path, *flags, **environ)
        assert await command.run() == code
    assert command.stderr.startswith(f"junctor admin rotate-keys: {text}")
    assert len(command.stderr.splitlines()) == 1
    assert "pw@" not in command.stderr
    assert keys(tmp_path) == before
    assert not list(tmp_path.rglob("nowhere*"))


async def test_two_rotations_at_a_time_do_not_lose_a_key(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await add_secret(cluster, "mine", MARK)
        commands = [rotation(tmp_path), rotation(tmp_path)]
        commands[1].folder = tmp_path / "other"
        codes = await asyncio.gather(*(command.run() for command in commands))
        assert 0 in codes
        assert set(codes) <= {0, 1}
        assert len(keys(tmp_path)) == 1
        assert {sealed.key_id for _, sealed in rows(tmp_path)} == set(keys(tmp_path))
