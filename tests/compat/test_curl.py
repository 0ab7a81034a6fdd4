"""curl as the documents of OpenAI-compatible services use it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.compat.place import Edge, Place
from tests.upstream import CLOSE, Sse

pytestmark = [pytest.mark.compat, pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")]


async def curl(*arguments: str, code: int = 0) -> str:
    """Run curl and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--noproxy", "*", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == code
    return out.decode()


def ask(model: str, *, stream: bool = False) -> tuple[str, ...]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    return ("-H", "content-type: application/json", "-d", json.dumps(body))


@pytest.mark.parametrize("protocol", ["--http1.1", "--http1.0", "--http2"])
async def test_chat(edge: Edge, protocol: str) -> None:
    for base in (f"{edge.url}/v1", edge.openai()):
        answer = json.loads(await curl(protocol, f"{base}/chat/completions", *ask("default/demo-echo-1")))
        assert answer["model"] == "default/demo-echo-1"


async def test_chat_streamed(edge: Edge) -> None:
    out = await curl("-N", f"{edge.url}/v1/chat/completions", *ask("default/demo-echo-1", stream=True))
    lines = [line.removeprefix("data: ") for line in out.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    said = "".join(c["delta"].get("content") or "" for line in lines[:-1] for c in json.loads(line)["choices"])
    assert said.startswith("You said: Hello")


async def test_a_body_of_many_megabytes_that_curl_announces(place: Place, tmp_path: Path) -> None:
    """curl asks with ``Expect: 100-continue`` and waits."""
    file = tmp_path / "body"
    file.write_text(json.dumps({"model": "test-model", "messages": [{"role": "user", "content": "x" * 3_000_000}]}))
    given = ("-H", "content-type: application/json", "--data-binary", f"@{file}")
    plain = json.loads(await curl(f"{place.openai}/chat/completions", *given))
    chunked = json.loads(await curl(f"{place.openai}/chat/completions", *given, "-H", "transfer-encoding: chunked"))
    assert (plain["model"], chunked["model"]) == (place.model, place.model)


async def test_encoded_slashes_mean_slashes(edge: Edge) -> None:
    assert json.loads(await curl(f"{edge.gateway()}/openai/-/v1%2Fmodels"))["object"] == "list"


async def test_errors(edge: Edge) -> None:
    out = await curl("-w", "\n%{http_code}", f"{edge.url}/v1/chat/completions", *ask("nope"))
    body, status = out.rsplit("\n", 1)
    assert status == "404"
    assert json.loads(body)["detail"] == json.loads(body)["error"]["message"]
    assert (await curl("-o", "/dev/null", "-w", "%{http_code}", f"{edge.url}/v1/chat/completions", "-d", "{")) == "400"


async def test_a_broken_stream_has_an_error_and_no_end(place: Place) -> None:
    place.upstream.always(Sse([b"data: {}\n\n", CLOSE]), path="/v1/chat/completions")
    url = f"{place.openai}/chat/completions"
    process = await asyncio.create_subprocess_exec(
        "curl", "-sN", "--noproxy", "*", url, *ask("test-model", stream=True), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert b"[DONE]" not in out
    assert b"event: error" in out or process.returncode != 0
