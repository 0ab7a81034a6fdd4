"""No spelling of an address that no provider may have is ever stored, nor connected to: at each way into junctor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from junctor.errors import MalformedRequest
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1.provider_registry_pb2_grpc import ProviderRegistryStub
from services.inference_router.upstream import (
    FailureKind,
    Origin,
    UpstreamClient,
    UpstreamFailure,
    UpstreamRequest,
)
from services.provider_registry.discovery_client import DiscoveryFailed, ModelLister
from services.runtime.addresses import AddressPolicy
from services.runtime.egress import Egress, Proxy
from services.runtime.no_proxy import NoProxy
from tests.cluster import Cluster, running
from tests.e2e.core import MODELS
from tests.proxy import RealProxy
from tests.security.dns import dns
from tests.security.spellings import ALL, ANSWERS, LINK_LOCAL, METADATA
from tests.services.test_upstream_proxy import Body
from tests.upstream import Raw, ScriptedUpstream, head

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

PROVIDERS = f"{MODELS}/default/providers"
GOOD = "https://provider.example/v1"
PUBLIC = AddressPolicy.parse("public,private")
LOCAL = AddressPolicy.parse("loopback")
REFUSED = (FailureKind.REFUSED_ADDRESS, FailureKind.CONNECT)
NOT_ASKED = (DiscoveryFailed, ValueError, TypeError)
"""A URL that is none, or not ASCII, is never stored; discovery would not get as far as a connection with one."""
FORMS = ("http://{}", "https://{}/v1", "http://{}:8080/a/b")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with running(tmp_path_factory.mktemp("strict"), upstream_networks="public,private") as made:
        kept = {"name": "kept", "host_url": GOOD, "admin_state": "DISABLED"}
        assert (await made.http.post(PROVIDERS, json=kept)).status_code == 201
        yield made


@pytest.mark.parametrize("host", ALL.values(), ids=ALL.keys())
async def test_no_provider_is_stored_with_it(cluster: Cluster, host: str) -> None:
    """``host_url`` and ``proxy``; create and update; REST and gRPC."""
    stub = ProviderRegistryStub(cluster.channel)
    url = FORMS[len(host) % len(FORMS)].format(host)
    for field in ("host_url", "proxy"):
        new = {"name": "made", "host_url": GOOD, field: url}
        for answer in (
            await cluster.http.post(PROVIDERS, json=new),
            await cluster.http.put(f"{PROVIDERS}/kept", json={"host_url": GOOD, field: url}),
            await cluster.http.put(f"{PROVIDERS}/made", json={"host_url": GOOD, field: url}),
        ):
            assert answer.status_code == 422, (url, answer.text)
            assert [entry["loc"] for entry in answer.json()["detail"]] == [["body", field]]
    for request in typed(url):
        call: Any = stub.CreateProvider if isinstance(request, pb.CreateProviderRequest) else stub.UpdateProvider
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await cluster.http.get(f"{PROVIDERS}/made")).status_code == 404
    kept = (await cluster.http.get(f"{PROVIDERS}/kept")).json()
    assert (kept["host_url"], kept["proxy"]) == (GOOD, None)


def typed(url: str) -> list[pb.CreateProviderRequest | pb.UpdateProviderRequest]:
    found: list[pb.CreateProviderRequest | pb.UpdateProviderRequest] = []
    for fields in ({"host_url": url}, {"proxy": url}):
        provider = pb.Provider(workspace="default", name="made", **{"host_url": GOOD, **fields})
        found.append(pb.CreateProviderRequest(provider=provider))
        changed = pb.UpdateProviderRequest(provider=provider)
        changed.provider.name = "kept"
        changed.update_mask.paths.extend(fields)
        found.append(changed)
    return found


def bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]").replace("%25", "%")


PROXIED = [host for host in (*METADATA.values(), *LINK_LOCAL.values()) if host.startswith("[") or "%" not in host]
"""Without percent escapes of octets: to a resolver such are no addresses, and no URL with one is stored."""


async def nobody(host: str, port: int) -> list[str]:
    raise OSError(f"{host} is no name")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ALL.values(), ids=ALL.keys())
async def test_no_call_and_no_discovery_connects_to_it(host: str, scheme: str) -> None:
    """As if it were stored all the same: by a release before, or by hand."""
    client = UpstreamClient(policy=PUBLIC, resolver=nobody)
    with pytest.raises((UpstreamFailure, MalformedRequest)) as caught:
        await client.exchange(
            UpstreamRequest(Origin(scheme, bare(host), 80), b"GET", b"/", []),
            Body(),
        )
    assert getattr(caught.value, "kind", FailureKind.REFUSED_ADDRESS) in REFUSED
    await client.close()
    with pytest.raises(NOT_ASKED):
        await ModelLister(PUBLIC, resolver=nobody).list_ids(pb.Provider(host_url=f"{scheme}://{host}"), None)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", PROXIED)
async def test_no_proxy_is_asked_for_it(host: str, scheme: str) -> None:
    """Where the proxy would look the name up; also if the operator's own proxy would go there."""
    async with RealProxy() as proxy:
        ways = Egress(Proxy.parse(proxy.url), Proxy.parse(proxy.url), NoProxy())
        client = UpstreamClient(policy=PUBLIC, resolver=nobody)
        origin = Origin(scheme, bare(host), 80, None, Proxy.parse(proxy.url))
        with pytest.raises(UpstreamFailure) as caught:
            await client.exchange(UpstreamRequest(origin, b"GET", b"/", []), Body())
        assert caught.value.kind is FailureKind.REFUSED_ADDRESS
        await client.close()
        with pytest.raises(NOT_ASKED):
            await ModelLister(PUBLIC, resolver=nobody, egress=ways).list_ids(
                pb.Provider(host_url=f"{scheme}://{host}"), None
            )
        assert not proxy.connections


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_no_name_leads_to_it(answer: str) -> None:
    async with dns([answer]) as server:
        client = UpstreamClient(policy=PUBLIC, resolver=server.resolve)
        request = UpstreamRequest(Origin("http", "provider.example", 80), b"GET", b"/", [])
        with pytest.raises(UpstreamFailure) as caught:
            await client.exchange(request, Body())
        assert caught.value.kind is FailureKind.REFUSED_ADDRESS
        assert answer not in str(caught.value)
        await client.close()
        lister = ModelLister(PUBLIC, resolver=server.resolve)
        with pytest.raises(DiscoveryFailed) as failed:
            await lister.list_ids(pb.Provider(host_url="http://provider.example"), None)
        assert answer not in str(failed.value)
        assert server.asked == ["provider.example"] * 2


ONCE = Raw(head(200, ("content-length", "2"), ("connection", "close")) + b"ok")
BAD = ("169.254.169.254", "10.0.0.1", "fe80::1")


@pytest.mark.parametrize("bad", BAD)
async def test_a_name_is_asked_for_once_and_its_answer_is_where_the_call_goes(bad: str) -> None:
    """Rebinding between check and connect: whoever asks again gets the address that must not be connected to."""
    async with ScriptedUpstream(default=ONCE) as up, dns(["127.0.0.1"], [bad], ["127.0.0.1"], [bad]) as server:
        client = UpstreamClient(policy=LOCAL, resolver=server.resolve)
        request = UpstreamRequest(Origin("http", "provider.example", up.port), b"GET", b"/", [])
        for allowed in (True, False, True, False):
            body = Body()
            if allowed:
                await client.exchange(request, body)
                assert body.data == b"ok"
                continue
            with pytest.raises(UpstreamFailure) as caught:
                await client.exchange(request, body)
            assert caught.value.kind is FailureKind.REFUSED_ADDRESS
        assert len(server.asked) == 4
        assert len(up.requests) == 2
        assert dict(up.requests[0].headers)[b"host"] == b"provider.example:%d" % up.port
        await client.close()


@pytest.mark.parametrize("bad", BAD)
async def test_discovery_asks_once_as_well(bad: str) -> None:
    async with ScriptedUpstream() as up, dns(["127.0.0.1"], [bad]) as server:
        lister = ModelLister(LOCAL, resolver=server.resolve)
        provider = pb.Provider(host_url=f"http://provider.example:{up.port}")
        assert await lister.list_ids(provider, None)
        assert server.asked == ["provider.example"]
        with pytest.raises(DiscoveryFailed):
            await lister.list_ids(provider, None)
        assert len(up.requests) == 1


@pytest.mark.parametrize("bad", BAD)
async def test_of_many_answers_only_the_allowed_ones_are_used(bad: str) -> None:
    async with ScriptedUpstream(default=ONCE) as up, dns([bad, "127.0.0.1", bad]) as server:
        client = UpstreamClient(policy=LOCAL, resolver=server.resolve)
        body = Body()
        await client.exchange(UpstreamRequest(Origin("http", "provider.example", up.port), b"GET", b"/", []), body)
        assert body.data == b"ok"
        await client.close()


REDIRECTS = (301, 302, 303, 307, 308, 300)


@pytest.mark.parametrize("status", REDIRECTS)
async def test_no_redirect_is_followed(status: int) -> None:
    async with ScriptedUpstream() as victim, ScriptedUpstream() as up:
        moved = Raw(head(status, ("location", f"{victim.url}/v1/models"), ("content-length", "0")))
        up.always(moved)
        with pytest.raises(DiscoveryFailed, match="redirects are not followed"):
            await ModelLister(LOCAL).list_ids(pb.Provider(host_url=up.url), None)
        client = UpstreamClient(policy=LOCAL)
        body = Body()
        await client.exchange(UpstreamRequest(Origin("http", "127.0.0.1", up.port), b"GET", b"/", []), body)
        assert body.status == status
        assert len(up.requests) == 2
        assert not victim.connections
        await client.close()
