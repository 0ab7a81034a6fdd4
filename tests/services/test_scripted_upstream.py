"""The scripted upstream itself: its default provider, its scripts, its honesty about its own mistakes."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.upstream import Json, Received, ScriptedUpstream, Sse, Status, Wire


async def test_the_default_is_a_small_openai_provider() -> None:
    async with ScriptedUpstream() as up, httpx.AsyncClient(base_url=up.url) as http:
        models = (await http.get("/v1/models")).json()
        assert [model["id"] for model in models["data"]] == ["test-model"]
        chat = await http.post("/v1/chat/completions", json={"model": "m", "messages": []})
        assert (chat.json()["model"], chat.json()["choices"][0]["message"]["content"]) == ("m", "Hello")
        stream = await http.post("/v1/chat/completions", json={"model": "m", "messages": [], "stream": True})
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.text.endswith("data: [DONE]\n\n")
        assert stream.text.count('"model": "m"') == 3
        assert (await http.post("/v1/completions", json={"model": "m"})).json()["choices"][0]["text"] == "Hello"
        assert len((await http.post("/v1/embeddings", json={"model": "m"})).json()["data"][0]["embedding"]) == 2
        assert (await http.get("/nothing")).status_code == 404


async def test_behaviours_are_taken_in_order_by_path_first() -> None:
    async with ScriptedUpstream() as up, httpx.AsyncClient(base_url=up.url) as http:
        up.script(Json(200, 1), Status(429, retry_after=1.5))
        up.script(Json(200, "b"), path="/b")
        up.always(Json(200, "always"))
        assert [(await http.get(path)).json() for path in ("/a?x=1", "/b?x=1")] == [1, "b"]
        limited = await http.get("/a")
        assert (limited.status_code, limited.headers["retry-after"]) == (429, "1.5")
        assert (await http.get("/b")).json() == "always"
        assert [request.target for request in up.requests] == ["/a?x=1", "/b?x=1", "/a", "/b"]
        assert {request.connection for request in up.requests} == {0}


async def test_a_gate_holds_the_answer() -> None:
    async with ScriptedUpstream() as up, httpx.AsyncClient(base_url=up.url) as http:
        gate = asyncio.Event()
        up.script(Sse([{"n": 1}], gate))
        answer = asyncio.create_task(http.post("/x", content=b"abc"))
        assert (await up.request()).body == b"abc"
        assert not answer.done()
        gate.set()
        assert (await answer).text == 'data: {"n": 1}\n\ndata: [DONE]\n\n'


async def test_the_port_can_be_refused_and_come_back() -> None:
    async with ScriptedUpstream() as up:
        await up.refuse()
        async with httpx.AsyncClient(base_url=up.url) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("/v1/models")
            await up.listen()
            assert (await http.get("/v1/models")).status_code == 200


class Mistaken:
    async def play(self, request: Received, wire: Wire) -> None:
        raise LookupError("a mistake of the test")


async def test_a_mistake_in_a_behaviour_is_raised_at_the_end() -> None:
    async def case(up: ScriptedUpstream) -> None:
        up.script(Mistaken())
        async with httpx.AsyncClient(base_url=up.url) as http:
            with pytest.raises(httpx.TransportError):
                await http.get("/x")

    with pytest.raises(LookupError, match="a mistake of the test"):
        async with ScriptedUpstream() as up:
            await case(up)
