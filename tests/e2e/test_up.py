"""``junctor up`` as a real process: what its screen promises, what it keeps, how it ends, how it refuses to start."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.cluster import until
from tests.e2e.core import GATEWAY, MODELS
from tests.e2e.processes import PATIENCE, Process, free_port, process
from tests.upstream import ScriptedUpstream, Sse

QUIET = ("--no-demo", "--no-detect")
CHAT = {"model": "default/test-model", "messages": [], "stream": True}


class Up:
    """A ``junctor up`` that is ready."""

    def __init__(self, process: Process, port: int, http: httpx.AsyncClient) -> None:
        self.process, self.port, self.http = process, port, http

    async def screen(self) -> str:
        """Return the start-up screen once it is whole."""

        async def shown() -> bool:
            return "Ctrl-C" in self.process.stdout

        await until(shown, seconds=PATIENCE)
        return self.process.stdout


@asynccontextmanager
async def up(folder: Path, *flags: str, **environ: str) -> AsyncIterator[Up]:
    port = free_port()
    ports = ("--port", str(port), "--grpc-port", str(free_port()))
    environ = {"JUNCTOR_SEED": "false"} | environ
    began = time.perf_counter()
    async with (
        process("junctor", "up", *ports, *flags, folder=folder, **environ) as one,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http,
    ):

        async def ready() -> bool:
            assert one.running(), one.stderr
            try:
                return (await http.get("/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await until(ready, seconds=PATIENCE)
        print(f"ready after {time.perf_counter() - began:.2f} s")  # noqa: T201 - to be looked at, not asserted
        yield Up(one, port, http)


async def add(upstream: ScriptedUpstream, junctor: Up, workspace: str = "default") -> None:
    body = {"name": "mine", "host_url": upstream.url}
    assert (await junctor.http.post(f"{MODELS}/{workspace}/providers", json=body)).status_code == 201
    await routes(junctor, workspace)


async def routes(junctor: Up, workspace: str = "default") -> None:
    async def ready() -> bool:
        return (await junctor.http.get(f"{GATEWAY}/{workspace}/provider/mine/ready")).status_code == 200

    await until(ready)


async def in_bash(text: str, folder: Path) -> tuple[int, str]:
    """Paste text into the shell that junctor was started from; return the exit code and what came out."""
    environ = os.environ | {"NO_PROXY": "*"}
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", text, cwd=folder, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await shell.communicate()
    return shell.returncode or 0, (out or err).decode()


def commands(screen: str) -> dict[str, str]:
    """Cut the commands out of the screen, by their first word, as a user marks them."""
    lines = screen.replace("\\\n", "\\\0").splitlines()
    found = {}
    for number, line in enumerate(lines):
        word = line.strip().partition(" ")[0].rpartition("/")[2]
        if word in ("curl", "junctor", "export") and line.startswith("  "):
            block = line
            while block.count("'") % 2:  # an open quote goes on
                number += 1  # noqa: PLW2901
                block += "\n" + lines[number]
            found[word] = block.replace("\0", "\n")
    return found


async def test_the_screen_holds_what_it_promises(tmp_path: Path) -> None:
    async with up(tmp_path, "--no-detect") as junctor:
        screen = await junctor.screen()
        assert "default/demo-echo-1" in screen
        assert str(tmp_path / "junctor-data") in screen
        assert re.search(r"gRPC +127\.0\.0\.1:\d+", screen)
        pasted = commands(screen)
        code, answer = await in_bash(pasted["curl"], tmp_path)
        assert (code, '"role":"assistant"' in answer.replace(" ", "")) == (0, True), answer
        code, answer = await in_bash(pasted["junctor"], tmp_path)
        assert (code, "Hello" in answer) == (0, True), answer
        sdk = "import openai; c = openai.OpenAI(); print([m.id for m in c.models.list()]); c.close()"
        code, answer = await in_bash(f"{pasted['export']}\n{shlex.quote(sys.executable)} -c '{sdk}'", tmp_path)
        assert (code, "default/demo-echo-1" in answer) == (0, True), answer
        assert "Traceback" not in junctor.process.stderr


async def test_state_survives_a_restart(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream:
        async with up(tmp_path, *QUIET) as junctor:
            assert (await junctor.http.post("/apis/entities/v2/workspaces", json={"name": "lab"})).status_code == 201
            await add(upstream, junctor, "lab")
            junctor.process.send(signal.SIGTERM)
            assert await junctor.process.ended() == 0
        async with up(tmp_path, *QUIET) as junctor:
            await routes(junctor, "lab")
            answer = await junctor.http.post("/v1/chat/completions", json={**CHAT, "model": "lab/test-model"})
            assert answer.text.endswith("data: [DONE]\n\n")


async def test_the_demo_provider_answers_after_a_restart_on_another_port(tmp_path: Path) -> None:
    for _ in range(2):
        async with up(tmp_path, "--no-detect") as junctor:
            await junctor.screen()
            body = {"model": "default/demo-echo-1", "messages": [{"role": "user", "content": "Hello"}]}
            answer = await junctor.http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            junctor.process.send(signal.SIGINT)
            assert await junctor.process.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_signal_lets_streams_finish_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as upstream, up(tmp_path, *QUIET) as junctor:
        await add(upstream, junctor)
        upstream.script(Sse(["first", gate, "last"]), path="/v1/chat/completions")
        async with junctor.http.stream("POST", "/v1/chat/completions", json=CHAT) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: first"
            junctor.process.send(number)
            await refuses_connections(junctor.port)  # it drains now
            assert junctor.process.running()
            gate.set()
            assert [line async for line in lines if line] == ["data: last", "data: [DONE]"]
        assert await junctor.process.ended() == 0
        assert "streams under way may finish" in junctor.process.stdout
        assert "Traceback" not in junctor.process.stderr


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, up(tmp_path, *QUIET) as junctor:
        await add(upstream, junctor)
        upstream.script(Sse(["first", asyncio.Event(), "never"]), path="/v1/chat/completions")
        async with junctor.http.stream("POST", "/v1/chat/completions", json=CHAT) as answer:
            assert await anext(answer.aiter_lines()) == "data: first"
            junctor.process.send(signal.SIGINT)
            await refuses_connections(junctor.port)
            assert junctor.process.running()
            junctor.process.send(signal.SIGINT)
            assert await junctor.process.ended() == 128 + signal.SIGINT
        assert "Traceback" not in junctor.process.stderr


async def test_the_drain_limit_ends_a_stream_that_does_not(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, up(tmp_path, *QUIET, JUNCTOR_DRAIN_TIMEOUT="1") as junctor:
        await add(upstream, junctor)
        upstream.script(Sse(["first", asyncio.Event(), "never"]), path="/v1/chat/completions")
        async with junctor.http.stream("POST", "/v1/chat/completions", json=CHAT) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: first"
            junctor.process.send(signal.SIGTERM)
            rest = [line async for line in lines if line]
        assert "data: [DONE]" not in rest
        assert await junctor.process.ended() == 0


@pytest.mark.parametrize("flag", ["--port", "--grpc-port", "--admin-port"])
async def test_a_taken_port_is_one_line_with_the_flag_and_who_has_it(tmp_path: Path, flag: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        ports = {"--port": "0", "--grpc-port": "0"} | {flag: str(taken)}
        one = await refused(tmp_path, *[word for pair in ports.items() for word in pair], *QUIET)
    assert f"port {taken} is taken" in one
    assert one.endswith(f"; use {flag}\n")
    if sys.platform == "linux":
        assert f"(pid {os.getpid()})" in one
    assert not (tmp_path / "junctor-data").exists()  # found before work is done


def _file_in_the_way(folder: Path) -> None:
    (folder / "junctor-data").write_text("")


def _no_database(folder: Path) -> None:
    (folder / "junctor-data").mkdir()
    (folder / "junctor-data" / "model_registry.sqlite").write_bytes(b"this is no database" * 100)


def _folder_for_a_database(folder: Path) -> None:
    (folder / "junctor-data" / "access_control.sqlite").mkdir(parents=True)


def _open_token(folder: Path) -> None:
    token = folder / ".config" / "junctor" / "service.token"
    token.parent.mkdir(parents=True)
    token.write_text("x" * 43)
    token.chmod(0o644)


def _broken_key(folder: Path) -> None:
    key = folder / ".config" / "junctor" / "secret.key"
    key.parent.mkdir(parents=True)
    key.write_text("no key")
    key.chmod(0o600)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(_file_in_the_way, "junctor-data", id="data-folder-is-a-file"),
        pytest.param(_no_database, "model_registry.sqlite: file is not a database", id="corrupt-database"),
        pytest.param(_folder_for_a_database, "access_control.sqlite: unable to open", id="unreadable-database"),
        pytest.param(_open_token, "service.token", id="token-that-others-can-read"),
        pytest.param(_broken_key, "secret.key", id="broken-key-file"),
    ],
)
async def test_files_that_cannot_be_used_are_one_line(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(tmp_path)
    assert says in await refused(tmp_path, "--port", "0", "--grpc-port", "0", *QUIET)


async def test_a_data_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    line = await refused(tmp_path, "--port", "0", "--grpc-port", "0", "--data-dir", "/proc/none/of/these", *QUIET)
    assert "/proc/none" in line
    assert "--data-dir" in line


async def test_a_data_folder_is_made_with_its_parents_for_this_user_alone(tmp_path: Path) -> None:
    async with up(tmp_path, *QUIET, "--data-dir", "a/b/c"):
        assert (tmp_path / "a/b/c").stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o077 for file in (tmp_path / "a/b/c").iterdir()} == {0}


@pytest.mark.parametrize(
    "flags",
    [("--port", "eighty"), ("--host", "0.0.0.0"), ("--config", "none.toml")],
    ids=["port", "exposed-without-auth", "missing-config"],
)
async def test_a_bad_setting_is_told_and_ends_with_2(tmp_path: Path, flags: tuple[str, ...]) -> None:
    one = Process("junctor", "up", *flags, folder=tmp_path)
    assert await one.run() == 2
    assert one.stderr.startswith("junctor up: ")
    assert "Traceback" not in one.stderr


async def test_a_terminal_shows_the_screen_and_no_log(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    try:
        one = Process("junctor", "up", "--port", "0", "--grpc-port", "0", "--no-detect", folder=tmp_path)
        shell = await asyncio.create_subprocess_exec(
            *one.command, cwd=tmp_path, env=one.environ, stdin=follower, stdout=follower, stderr=follower
        )
        shown = b""
        async with asyncio.timeout(PATIENCE):
            while b"Ctrl-C" not in shown:
                shown += await asyncio.to_thread(os.read, leader, 65536)
        shell.send_signal(signal.SIGINT)
        assert await shell.wait() == 0
        shown += await asyncio.to_thread(os.read, leader, 65536)
    finally:
        os.close(leader)
        os.close(follower)
    text = shown.decode()
    assert "junctor.v1" not in text
    assert " info " not in text.lower()
    assert "warning" not in text.lower()


async def refused(folder: Path, *flags: str) -> str:
    """Run a ``junctor up`` that cannot start; return its one line."""
    one = Process("junctor", "up", *flags, folder=folder, environ={"JUNCTOR_SEED": "false"})
    assert await one.run() == 1, one.stderr
    assert one.stderr.count("\n") == 1, one.stderr
    assert one.stderr.startswith("junctor: ")
    return one.stderr


async def refuses_connections(port: int) -> None:
    async def refuses() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return True
        writer.close()
        return False

    await until(refuses, seconds=PATIENCE)
