"""The way out to providers of real processes: proxies by setting and by provider, a private authority, mTLS.

The names here cannot be looked up: only the proxy knows them. ``https`` goes through a proxy of the conventional
variable, ``http`` through junctor's own setting; both demand credentials.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from junctor.v1 import inference_pb2 as typed
from junctor.v1.inference_pb2_grpc import InferenceStub
from services.settings_table import GATEWAY
from tests.cluster import Access, until
from tests.e2e.core import GATEWAY as INFERENCE
from tests.e2e.core import MODELS
from tests.e2e.processes import Deployment, deployment
from tests.pki import Authority
from tests.proxy import RealProxy
from tests.upstream import OpenAI, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

GROUPS = (("access-control", "model-registry", "provider-registry"), ("inference-router", GATEWAY))
CA, OTHER = Authority(), Authority("other")
USER = "us:s3cr3t-word"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@dataclass
class World:
    deployment: Deployment
    access: Access
    stack: AsyncExitStack
    by_variable: RealProxy
    by_setting: RealProxy
    own: RealProxy

    async def upstream(self, **tls: Any) -> ScriptedUpstream:
        """Start a provider that speaks TLS with a certificate of ``tls`` (see Authority.issue); empty: it does not."""
        clients = tls.pop("clients", None)
        context = CA.issue(**tls).server_context(clients=clients) if tls else None
        return await self.stack.enter_async_context(ScriptedUpstream(default=OpenAI("test-model"), tls=context))

    async def answers(self, name: str) -> None:
        """A call by REST and one by gRPC, by model and by provider."""
        rest = await self.access.http.post("/v1/chat/completions", json=CHAT | {"model": f"default/{name}"})
        assert rest.status_code == 200, rest.text
        path = f"{INFERENCE}/default/provider/{name}/-/v1/chat/completions"
        pinned = await self.access.http.post(path, json=CHAT | {"model": name})
        assert pinned.status_code == 200, pinned.text
        answer = await InferenceStub(self.access.channel).CreateChatCompletion(
            asked(model=f"default/{name}"), wait_for_ready=True
        )
        assert answer.choices[0].message.content[0].text == "Hello"

    async def serve(self, name: str, url: str, upstream: ScriptedUpstream, **fields: Any) -> None:
        """Register a provider that serves one model of its own name; wait until that routes."""
        upstream.always(OpenAI(name))
        await self.access.add_provider(name, url, **fields)

    async def fails(self, name: str, url: str, **fields: Any) -> tuple[str, str]:
        """Register a provider that cannot be reached; return what REST and what discovery say of it."""
        created = await self.access.http.post(
            f"{MODELS}/default/providers", json={"name": name, "host_url": url, **fields}
        )
        assert created.status_code == 201, created.text
        status = ""

        async def tried() -> bool:
            nonlocal status
            status = (await self.access.http.get(f"{MODELS}/default/providers/{name}")).json()["status_message"]
            return status.startswith("Provider discovery failed")

        await until(tried)
        path = f"{INFERENCE}/default/provider/{name}/-/v1/chat/completions"
        await until(lambda: self._is_known(path))
        answer = await self.access.http.post(path, json=CHAT | {"model": "m"})
        assert answer.status_code == 502, answer.text
        request = asked(provider=typed.UpstreamModel(provider=f"default/{name}", model="m"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await InferenceStub(self.access.channel).CreateChatCompletion(request, wait_for_ready=True)
        said = caught.value.details() or ""
        assert answer.json()["error"]["message"] == f"Backend networking error: {said}"
        assert "127.0.0.1" not in said + status
        return said, status.removeprefix("Provider discovery failed: ")

    async def _is_known(self, path: str) -> bool:
        return (await self.access.http.post(path, json=CHAT | {"model": "m"})).status_code not in (404, 424)


def asked(**target: Any) -> typed.ChatCompletionRequest:
    message = typed.ChatMessage(role="user", content=[typed.ContentPart(text="Hi")])
    return typed.ChatCompletionRequest(messages=[message], **target)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("out")
    bundle = folder / "ca.pem"
    bundle.write_text(f"# Autorité privée\n{CA.pem}")
    async with AsyncExitStack() as stack:
        by_variable, by_setting = [await stack.enter_async_context(RealProxy(user=USER)) for _ in range(2)]
        own = await stack.enter_async_context(RealProxy())
        made = await stack.enter_async_context(deployment(folder, *GROUPS))
        for one in made.processes.values():
            one.environ |= {
                "NO_PROXY": "",
                "HTTPS_PROXY": by_variable.url,
                "JUNCTOR_HTTP_PROXY": by_setting.url,
                "JUNCTOR_NO_PROXY": "direct.test",
                "JUNCTOR_CA_FILE": str(bundle),
                "JUNCTOR_LOG_LEVEL": "debug",
            }
        await made.start(order=random.Random())
        await made.http_ready()
        access = await stack.enter_async_context(made.access())
        yield World(made, access, stack, by_variable, by_setting, own)
        for one in made.processes.values():
            assert "Traceback" not in one.stderr, one.stderr
            assert not any(word in one.stderr + one.stdout for word in ("s3cr3t-word", "dXM6czNjcjN0LXdvcmQ="))


async def test_a_provider_behind_tls_is_reached_through_the_proxy_of_the_variable(world: World) -> None:
    up = await world.upstream(name="provider.test")
    await world.serve("tunnelled", f"https://provider.test:{up.port}", up)
    await world.answers("tunnelled")
    assert f"provider.test:{up.port}" in world.by_variable.tunnels
    assert len(up.connections) <= world.by_variable.tunnels.count(f"provider.test:{up.port}")
    assert all(request.header("proxy-authorization") is None for request in up.requests)
    assert not world.by_variable.refused


async def test_a_plain_provider_is_reached_through_the_proxy_of_the_setting(world: World) -> None:
    up = await world.upstream()
    await world.serve("forwarded", f"http://plain.test:{up.port}", up)
    await world.answers("forwarded")
    assert f"GET http://plain.test:{up.port}/v1/models" in world.by_setting.forwarded
    assert f"POST http://plain.test:{up.port}/v1/chat/completions" in world.by_setting.forwarded
    assert all(request.header("proxy-authorization") is None for request in up.requests)


async def test_a_providers_own_proxy_wins_and_gets_no_credentials_of_the_other(world: World) -> None:
    up = await world.upstream(name="own.test")
    await world.serve("owned", f"https://own.test:{up.port}", up, proxy=world.own.url)
    await world.answers("owned")
    assert f"own.test:{up.port}" in world.own.tunnels
    assert f"own.test:{up.port}" not in world.by_variable.tunnels
    assert all(b"authorization" not in head.lower() for head in world.own.heads)


async def test_this_machine_is_reached_directly(world: World) -> None:
    up, plain = await world.upstream(name="provider.test"), await world.upstream()
    before = (world.by_variable.connections, world.by_setting.connections)
    await world.serve("local-tls", up.url, up)
    await world.serve("local", plain.url, plain)
    await world.answers("local-tls")
    await world.answers("local")
    assert not any(f":{port}" in target for port in (up.port, plain.port) for target in world.by_variable.tunnels)
    assert world.by_setting.connections == before[1]


async def test_no_proxy_and_an_empty_proxy_of_the_provider_mean_directly(world: World) -> None:
    unresolved = ("The provider's name cannot be resolved.", "its name cannot be resolved")
    assert await world.fails("direct", "https://a.direct.test:1") == unresolved
    assert await world.fails("direct-own", "https://other.test:1", proxy="") == unresolved
    assert not any("direct.test" in target or target == "other.test:1" for target in world.by_variable.tunnels)


async def test_what_is_wrong_with_a_certificate_is_said(world: World) -> None:
    expired = await world.upstream(name="expired.test", expired=True)
    said = await world.fails("expired", f"https://expired.test:{expired.port}")
    assert said == ("The provider's certificate has expired.", "its TLS certificate has expired")
    up = await world.upstream(name="provider.test")
    said = await world.fails("misnamed", f"https://wrong.test:{up.port}")
    assert said == (
        "The provider's certificate is for another host name.",
        "its TLS certificate is for another host name",
    )
    said = await world.fails("untrusted", f"https://provider.test:{up.port}", tls={"ca_bundle_pem": OTHER.pem})
    text = "certificate is not trusted: its authority is unknown"
    assert said == (f"The provider's {text}.", f"its TLS {text}")
    await world.serve("renamed", f"https://wrong.test:{up.port}", up, tls={"server_name": "provider.test"})
    await world.answers("renamed")


async def test_a_client_certificate_comes_from_a_secret_and_may_change(world: World) -> None:
    http = world.access.http
    first, second = CA.issue("router.test"), CA.issue("router.test")
    up = await world.upstream(name="mutual.test", clients=CA)
    secrets = "/apis/secrets/v2/workspaces/default/secrets"
    assert (await http.post(secrets, json={"name": "client-cert", "value": first.secret})).status_code == 201
    tls = {"client_certificate_secret_name": "client-cert"}
    await world.serve("mutual", f"https://mutual.test:{up.port}", up, tls=tls)
    await world.answers("mutual")
    assert {connection.serial for connection in up.connections} == {first.serial}

    known = len(up.connections)
    assert (await http.patch(f"{secrets}/client-cert", json={"value": second.secret})).status_code == 200
    chat = CHAT | {"model": "default/mutual"}

    async def changed() -> bool:
        assert (await http.post("/v1/chat/completions", json=chat)).status_code == 200
        return up.connections[up.requests[-1].connection].serial == second.serial

    await until(changed)
    await world.answers("mutual")
    # Nothing that shows the old certificate is left open, nor opened once the new one is in use.
    await up.wait_for(lambda: all(one.closed.is_set() for one in up.connections if one.serial == first.serial))
    assert {connection.serial for connection in up.connections[known:]} <= {first.serial, second.serial}

    assert (await http.delete(f"{secrets}/client-cert")).status_code == 204

    async def refused() -> bool:
        return (
            await http.post(f"{INFERENCE}/default/provider/mutual/-/v1/chat/completions", json=chat)
        ).status_code == 424

    await until(refused)


async def test_a_secret_that_is_no_certificate_is_said_so(world: World) -> None:
    http = world.access.http
    secrets = "/apis/secrets/v2/workspaces/default/secrets"
    assert (await http.post(secrets, json={"name": "nonsense", "value": "nonsense"})).status_code == 201
    created = await http.post(
        f"{MODELS}/default/providers",
        json={
            "name": "odd-cert",
            "host_url": "https://mutual.test",
            "tls": {"client_certificate_secret_name": "nonsense"},
        },
    )
    assert created.status_code == 201, created.text

    async def told() -> bool:
        status = (await http.get(f"{MODELS}/default/providers/odd-cert")).json()["status_message"]
        return "client certificate" in status and "PEM" in status

    await until(told)


async def test_a_proxy_that_fails_is_said_so(world: World) -> None:
    up = await world.upstream(name="provider.test")
    async with RealProxy() as broken:
        for fault, text in (
            (403, "refused the connection to the provider (403)"),
            ("garbage", "does not speak HTTP"),
            ("close", "closed the connection"),
        ):
            broken.fault = fault
            name = f"broken-{fault}"
            said = await world.fails(name, f"https://provider.test:{up.port}", proxy=broken.url)
            assert said == (f"The proxy {text}.", f"its proxy {text}")


async def test_credentials_of_a_proxy_are_not_printed(world: World) -> None:
    one = world.deployment.processes["inference-router"]
    printing = type(one)(
        "junctord", "gateway", "--print-config", folder=one.folder.parent / "print", environ=one.environ
    )
    assert await printing.run() == 0
    shown = printing.stdout + printing.stderr
    assert f'https_proxy = "http://[redacted]@127.0.0.1:{world.by_variable.port}"' in shown
    assert f'http_proxy = "http://[redacted]@127.0.0.1:{world.by_setting.port}"' in shown
    assert "# HTTPS_PROXY" in shown
    assert not any(word in shown for word in ("s3cr3t-word", "dXM6czNjcjN0LXdvcmQ="))


async def test_a_bad_proxy_is_refused_at_the_start_without_being_shown(world: World) -> None:
    one = world.deployment.processes["inference-router"]
    environ = one.environ | {"HTTPS_PROXY": "socks5://me:s3cr3t-word@p.test:1080"}
    broken = type(one)("junctord", "gateway", folder=one.folder.parent / "broken", environ=environ)
    assert await broken.run() == 2
    assert "HTTPS_PROXY: must be http://" in broken.stderr
    assert "s3cr3t-word" not in broken.stderr


async def test_health_of_the_edge_is_not_asked_through_a_proxy(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.access.url, trust_env=False) as http:
        assert (await http.get("/health/ready")).status_code == 200
