"""The start-up screen and the message for a taken port."""

from __future__ import annotations

import json
import os
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest

from services.up.ports import Process, listener, taken
from services.up.screen import Facts, best_model, program_name, reachable_url, render

DEMO = ("default/demo-echo-1", "default/demo-embed-1")


def facts(**changes: Any) -> Facts:
    base: dict[str, Any] = {
        "url": "http://127.0.0.1:8080",
        "grpc_target": "127.0.0.1:50051",
        "data_dir": "/home/user/junctor-data",
        "models": DEMO,
        "version": "0.1.0",
    }
    return Facts(**base | changes)


def commands(screen: str) -> list[list[str]]:
    """Split the screen's commands as a shell does."""
    joined = screen.replace("\\\n", "")
    parts = shlex.split(joined.partition("Try it")[2].partition("Existing apps")[0])
    at = parts.index("junctor")
    return [parts[parts.index("curl") : at], parts[at:]]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"auth": True, "url": "http://127.0.0.1:65535"},
        {"models": ()},
        {"detected": ["OPENAI_API_KEY -> default/openai: left alone (" + "why " * 30 + ")"]},
    ],
    ids=["plain", "auth", "no-model", "long-finding"],
)
def test_the_screen_fits_eighty_columns_and_has_no_colour_unless_asked(changes: dict[str, Any]) -> None:
    screen = render(facts(**changes))
    assert max(map(len, screen.splitlines())) <= 80
    assert "\x1b" not in screen
    assert "\x1b[1m" in render(facts(**changes), colour=True)


def test_the_curl_is_one_command_with_json_that_names_the_model() -> None:
    curl, chat = commands(render(facts()))
    assert curl[:2] == ["curl", "http://127.0.0.1:8080/v1/chat/completions"]
    body = json.loads(curl[curl.index("-d") + 1])
    assert body == {"model": "default/demo-echo-1", "messages": [{"role": "user", "content": "Hello"}]}
    assert chat == ["junctor", "chat", "demo-echo-1", "Hello"]


def test_another_port_and_workspace_are_in_the_commands() -> None:
    _, chat = commands(render(facts(url="http://127.0.0.1:9000", models=["lab/m"])))
    assert chat[:6] == ["junctor", "chat", "lab/m", "Hello", "--base-url", "http://127.0.0.1:9000"]


def test_what_the_command_line_would_not_guess_is_exported() -> None:
    assert "export JUNCTOR" not in render(facts())
    screen = render(facts(url="http://127.0.0.1:9000", grpc_target="127.0.0.1:9001"))
    assert "\n  export JUNCTOR_BASE_URL=http://127.0.0.1:9000\n  export JUNCTOR_GRPC_TARGET=127.0.0.1:9001\n" in screen


def test_with_auth_the_calls_carry_the_token_of_the_environment() -> None:
    screen = render(facts(auth=True))
    curl, _ = commands(screen)
    assert "authorization: Bearer $JUNCTOR_ACCESS_TOKEN" in curl
    assert 'OPENAI_API_KEY="$JUNCTOR_ACCESS_TOKEN"' in screen


def test_the_screen_tells_where_everything_is() -> None:
    screen = render(facts(detected=["Ollama on 127.0.0.1:11434 -> default/ollama: added"]))
    for text in (
        "junctor 0.1.0 is ready",
        "export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=not-needed",
        "127.0.0.1:50051",
        "/home/user/junctor-data",
        "Ollama on 127.0.0.1:11434",
    ):
        assert text in screen


@pytest.mark.parametrize(
    ("models", "best"),
    [
        (DEMO, "default/demo-echo-1"),
        ((*DEMO, "default/llama-3-2"), "default/llama-3-2"),
        (("default/text-embedding-3-small", "default/whisper-1", "default/gpt-4-1"), "default/gpt-4-1"),
        (("audio-team/m1",), "audio-team/m1"),
        (("default/demo-embed-1",), None),
        ((), None),
    ],
    ids=["demo", "real-before-demo", "no-chat-models", "workspace-is-no-hint", "embeddings-only", "none"],
)
def test_best_model(models: tuple[str, ...], best: str | None) -> None:
    assert best_model(models) == best


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("fe80::2", "http://[fe80::2]:1"),
        ("gpu.lan", "http://gpu.lan:1"),
    ],
)
def test_reachable_url(host: str, url: str) -> None:
    assert reachable_url(host, 1) == url


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the port's holder is found on Linux only")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_the_listener_of_a_port_is_found(family: socket.AddressFamily) -> None:
    with socket.socket(family) as holder:
        try:
            holder.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")
        port = holder.getsockname()[1]
        assert listener(port) is None
        holder.listen()
        found = listener(port)
        assert found is not None
        assert found.pid == os.getpid()
        assert taken(port) == f"port {port} is taken by {found.name} (pid {found.pid}); use --port"


def test_a_process_is_found_in_the_tables_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    row = "   0: 0100007F:{} 00000000:0000 {} 00000000:00000000 00:00000000 00000000  0  0 4711 1\n"
    (tmp_path / "net" / "tcp").write_text(head + row.format("1F92", "01") + row.format("1F90", "0A"))
    files = tmp_path / "99" / "fd"
    files.mkdir(parents=True)
    (files / "3").symlink_to("socket:[4711]")
    (tmp_path / "99" / "comm").write_text("nginx\x1b\n")
    assert listener(8080, proc=tmp_path) == Process("nginx", 99)
    assert listener(8081, proc=tmp_path) is None
    assert listener(8082, proc=tmp_path) is None, "connected, but not listening"


def test_a_port_whose_holder_is_unknown_is_still_one_line(tmp_path: Path) -> None:
    assert taken(8080, "--grpc-port", proc=tmp_path) == "port 8080 is taken; use --grpc-port"


@pytest.mark.parametrize(
    ("found", "running", "expected"),
    [
        pytest.param("/usr/bin/junctor", "/usr/bin/junctor", "junctor", id="on the path"),
        pytest.param(None, "/home/me/code/.venv/bin/junctor", ".venv/bin/junctor", id="below the folder"),
        pytest.param(
            "/usr/bin/junctor", "/home/me/code/.venv/bin/junctor", ".venv/bin/junctor", id="another one found"
        ),
        pytest.param(None, "/opt/my tools/bin/junctor", "'/opt/my tools/bin/junctor'", id="elsewhere, with a space"),
    ],
)
def test_the_command_is_written_as_the_shell_finds_it(found: str | None, running: str, expected: str) -> None:
    assert program_name(found, Path(running), Path("/home/me/code")) == expected
