"""The ``junctor`` command, run as users run it: a process against a scripted server on a real socket."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from junctor import sse
from junctor.cli.conversation import target
from junctor.cli.failure import Failure
from junctor.cli.lazy import load
from junctor.http_errors import text as error_text

JUNCTOR = [sys.executable, "-c", "from junctor.cli import main; main()"]


@dataclass
class Script:
    """What the server says to each request, and what it was asked."""

    answer: bytes = b""
    hold: bool = False
    """Keep the connection open after the answer until the client closes it."""
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    url: str = ""


class Handler(socketserver.StreamRequestHandler):
    """Reads one request, writes the script's bytes, closes."""

    def handle(self) -> None:
        script: Script = self.server.script  # type: ignore[attr-defined]
        request = self.rfile.readline().decode().split(" ")
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = self.rfile.read(int(headers.get("content-length", 0)))
        script.requests.append((request[1], headers, json.loads(body)))
        self.wfile.write(script.answer)
        if script.hold:
            self.rfile.read()
            script.hung_up.set()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def script() -> Iterator[Script]:
    with Server(("127.0.0.1", 0), Handler) as server:
        scripted = Script(url=f"http://127.0.0.1:{server.server_address[1]}")
        server.script = scripted  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield scripted
        server.shutdown()
        thread.join()


def junctor(*arguments: str, stdin: str | None = "", **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JUNCTOR_")}
    return subprocess.run(
        [*JUNCTOR, *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        env=clean | {"COLUMNS": "80", "JUNCTOR_CONFIG_FILE": os.devnull} | environment,
        check=False,
    )


def stream(*events: str, status: str = "200 OK") -> bytes:
    body = "".join(f"{event}\n\n" for event in events)
    return f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}".encode()


def chunk(text: str, finish: str | None = None) -> str:
    delta = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], "model": "default/m"}
    return "data: " + json.dumps(delta, ensure_ascii=False)


def whole(body: Any, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nconnection: close\r\n\r\n{json.dumps(body)}".encode()


HELLO = stream(chunk("Hel"), ": comment", chunk("lo \u2028ö"), chunk("", "stop"), "data: [DONE]")


def test_version() -> None:
    assert junctor("--version").stdout.startswith("junctor 0.")


def test_help_names_every_command_and_imports_no_server_nor_rpc_nor_http() -> None:
    code = (
        "import sys\nfrom junctor.cli import main\ntry:\n main()\nfinally:\n"
        " print([m for m in sys.modules if m.split('.')[0] in ('grpc', 'httpx', 'services', 'uvicorn', 'google')])"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    for name in ("chat", "protos", "up", "demo-provider", "Examples:"):
        assert name in done.stdout


def test_help_fits_eighty_columns() -> None:
    for command in ([], ["chat"], ["protos", "export"], ["demo-provider"]):
        assert max(map(len, junctor(*command, "--help").stdout.splitlines())) <= 80


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is full")
@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_is_one_line(tmp_path: Path, buffered: bool) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*JUNCTOR, "config", "view"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "JUNCTOR_CONFIG_FILE": str(tmp_path / "none"),
                "PYTHONUNBUFFERED": "" if buffered else "1",
            },
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "junctor: No space left on device: the output is not complete\n"


def test_an_unknown_command_is_a_usage_error_with_a_suggestion() -> None:
    done = junctor("chta")
    assert done.returncode == 2
    assert "Did you mean 'chat'?" in done.stderr


def test_a_server_command_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "needs_more.py").write_text("import package_that_is_not_there\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(Failure, match=r"^'up' needs the server packages: pip install 'junctor\[server\]'$"):
            load("up", "needs_more:command")
    finally:
        sys.path.remove(str(tmp_path))


def test_a_fault_in_an_own_package_is_not_taken_for_a_missing_one() -> None:
    with pytest.raises(ModuleNotFoundError):
        load("up", "services.not_there:command")


@pytest.mark.parametrize(
    ("model", "workspace", "provider", "found"),
    [
        ("m1", "default", "", ("default", "default/m1")),
        ("team/m1", "default", "", ("team", "team/m1")),
        ("meta/m:1", "lab", "p", ("lab", "meta/m:1")),
    ],
    ids=["bare", "workspace-in-model", "provider"],
)
def test_target(model: str, workspace: str, provider: str, found: tuple[str, str]) -> None:
    assert target(model, workspace, provider) == found


def test_chat_prints_the_answer_and_sends_what_was_asked(script: Script) -> None:
    script.answer = HELLO
    flags = ["-s", "Be brief", "--temperature", "0.5", "--max-tokens", "9"]
    done = junctor("chat", "m", "Hi", *flags, "--base-url", script.url + "/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello \u2028ö\n", "")
    path, headers, body = script.requests[0]
    assert path == "/apis/inference-gateway/v2/workspaces/default/openai/-/v1/chat/completions"
    assert "authorization" not in headers
    assert body == {
        "model": "default/m",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "temperature": 0.5,
        "max_tokens": 9,
    }


def test_environment_settings_and_a_question_from_a_pipe(script: Script) -> None:
    script.answer = HELLO
    settings = {"JUNCTOR_BASE_URL": script.url, "JUNCTOR_WORKSPACE": "lab", "JUNCTOR_ACCESS_TOKEN": "t0ken"}
    assert junctor("chat", "m", stdin="From a pipe\n", **settings).returncode == 0
    assert junctor("chat", "m", "x", "--workspace", "other", **settings).returncode == 0
    (_, headers, body), (_, _, flagged) = script.requests
    assert headers["authorization"] == "Bearer t0ken"
    assert (body["model"], body["messages"][-1]["content"]) == ("lab/m", "From a pipe\n")
    assert flagged["model"] == "other/m"


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(script: Script) -> None:
    script.answer = HELLO
    done = junctor("chat", "m", "Hi", "--base-url", script.url, HTTP_PROXY="http://127.0.0.1:1", ALL_PROXY="")
    assert done.returncode == 0


def test_chat_as_json_has_content_model_and_usage(script: Script) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    last = "data: " + json.dumps({"choices": [], "usage": usage})
    thought = "data: " + json.dumps({"choices": [{"delta": {"reasoning_content": "Hm"}}]})
    script.answer = stream(thought, chunk("Yes"), last, "data: [DONE]")
    done = junctor("chat", "m", "Hi", "-f", "json", "--base-url", script.url)
    assert json.loads(done.stdout) == {"content": "Yes", "thinking": "Hm", "model": "default/m", "usage": usage}
    assert script.requests[0][2]["stream_options"] == {"include_usage": True}


def test_chat_raw_prints_the_bytes_received(script: Script) -> None:
    script.answer = HELLO
    done = junctor("chat", "m", "Hi", "-f", "raw", "--base-url", script.url)
    assert done.stdout.encode() == HELLO.partition(b"\r\n\r\n")[2]


def test_an_answer_that_is_not_streamed_is_printed_too(script: Script) -> None:
    script.answer = whole({"choices": [{"message": {"content": "All at once"}}]})
    assert junctor("chat", "m", "Hi", "--base-url", script.url).stdout == "All at once\n"


def test_an_answer_cut_at_the_limit_is_said_to_be(script: Script) -> None:
    script.answer = stream(chunk("Half", "length"), "data: [DONE]")
    done = junctor("chat", "m", "Hi", "--base-url", script.url)
    assert (done.returncode, done.stdout) == (0, "Half\n")
    assert done.stderr == "junctor: the answer was cut at the token limit\n"


BROKEN = 'event: error\ndata: {"type":"error","error":{"type":"stalled","message":"the provider\\nfell silent"}}'


@pytest.mark.parametrize(
    ("answer", "stdout", "stderr"),
    [
        (stream(chunk("Hal"), BROKEN), "Hal\n", "junctor: the provider fell silent\n"),
        (stream('data: {"error":{"message":"boom"}}'), "", "junctor: boom\n"),
        (stream("event: error\ndata: {}"), "", "junctor: the answer broke off\n"),
        (whole({"detail": "No such model"}, "404 Not Found"), "", "junctor: No such model\n"),
        (
            whole([], "503 Service Unavailable"),
            "",
            "junctor: the server answered 503 Service Unavailable; wait a moment",
        ),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html>", "", "junctor: the server's answer is not a chat"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "", "junctor: the connection to http://127.0.0.1:"),
        (b"", "", "junctor: the connection to http://127.0.0.1:"),
    ],
    ids=["error-event", "error-data", "empty-error", "detail", "no-detail", "not-json", "cut-off", "hung-up"],
)
def test_a_failed_chat_is_one_line_and_exit_code_1(script: Script, answer: bytes, stdout: str, stderr: str) -> None:
    script.answer = answer
    done = junctor("chat", "m", "Hi", "--base-url", script.url)
    assert (done.returncode, done.stdout) == (1, stdout)
    assert done.stderr.startswith(stderr)
    assert done.stderr.count("\n") == 1


def test_no_server_names_the_address_and_the_command_that_starts_one() -> None:
    done = junctor("chat", "m", "Hi", "--base-url", "http://user:secret@127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr == "junctor: cannot connect to http://127.0.0.1:1; start a server with: junctor up\n"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://x:y"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    done = junctor("chat", "m", "Hi", "--base-url", url)
    assert (done.returncode, done.stderr) == (1, "junctor: the base URL must look like http://localhost:8080\n")


@pytest.mark.parametrize("arguments", [["m"], ["m", " "], ["m", "x", "--max-tokens", "0"], ["m", "x", "-f", "xml"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert junctor("chat", *arguments).returncode == 2


def test_ctrl_c_closes_the_connection_and_exits_130(script: Script) -> None:
    script.answer = stream(chunk("Thinking"))
    script.hold = True
    command = [*JUNCTOR, "chat", "m", "Hi", "--base-url", script.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(8) == b"Thinking"
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert script.hung_up.wait(30)


def test_ctrl_c_stops_the_answer_but_not_the_conversation(script: Script) -> None:
    script.answer = stream(chunk("Thinking"))
    script.hold = True
    command = [*JUNCTOR, "chat", "m", "Hi", "--interactive", "--base-url", script.url]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.read(8) == b"Thinking"
        process.send_signal(signal.SIGINT)
        assert script.hung_up.wait(30)
        script.hold = False
        process.stdin.write(b"Again\n")
        process.stdin.close()
        assert process.stdout.read() == b"\nThinking\n"
        assert process.wait() == 0
    assert [message["content"] for message in script.requests[1][2]["messages"]] == ["Hi", "Thinking", "Again"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_stream_is_cut(size: int) -> None:
    text = "event: a\r\ndata: ö\u2028\r\n\r\n: hi\n\ndata:x\ndata: y\n\nid: 3\rdata: z\r\rdata: unfinished"
    raw = text.encode()
    cut = [raw[at : at + size] for at in range(0, len(raw), size)]
    found = [(event.name, event.data) for event in sse.events(cut)]
    assert found == [("a", "ö\u2028"), ("", "x\ny"), ("", "z")]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"detail": "x"}, "x"),
        ({"detail": [{"loc": ["body", "name"], "msg": "bad"}, "y"]}, "name: bad; y"),
        ({"detail": '{"error": {"message": "m"}}', "error": {"message": "m\nn"}}, "m n"),
        ({"detail": "{ odd"}, "{ odd"),
        ({"error": {"message": "m"}}, "m"),
        ({"error": {"type": "t"}}, "t"),
        ({"error": "e"}, "e"),
        ({"detail": "", "error": {"message": "m"}}, "m"),
        ({}, ""),
        (7, ""),
    ],
)
def test_error_text(body: Any, text: str) -> None:
    assert error_text(body) == text


def test_protos_export_writes_sources_and_a_descriptor_set_that_loads(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    done = junctor("protos", "export", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    written = {str(path.relative_to(folder)) for path in folder.rglob("*.proto")}
    assert "junctor/v1/inference.proto" in written
    described = FileDescriptorSet.FromString((folder / "descriptor_set.binpb").read_bytes())
    pool = DescriptorPool()
    for file in described.file:
        pool.Add(file)
    assert {file.name for file in described.file if file.name.startswith("junctor/")} == written
    for name in written:
        assert pool.FindFileByName(name)


def test_protos_export_to_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = junctor("protos", "export", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"junctor: cannot write to {tmp_path}/file: ")
