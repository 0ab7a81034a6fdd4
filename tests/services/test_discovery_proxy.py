"""Discovery through real proxies: TLS to the proxy, TLS to the provider inside, and what is said when one fails."""

from __future__ import annotations

import pytest

from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.discovery_client import DiscoveryFailed, ModelLister
from services.runtime.addresses import AddressPolicy
from services.runtime.auth import Secret
from services.runtime.egress import Egress, Proxy
from tests.pki import Authority
from tests.proxy import RealProxy
from tests.upstream import Json, ScriptedUpstream

CA, OTHER = Authority(), Authority("other")
LIST = Json(200, {"data": [{"id": "m1"}]})
USER = "us:s3cr3t"


async def only_the_proxy(host: str, port: int) -> list[str]:
    if host == "proxy.test":
        return ["127.0.0.1"]
    raise OSError(f"{host} was looked up")


def lister(proxy: Proxy, ca: str = CA.pem) -> ModelLister:
    egress = Egress(http_proxy=proxy, https_proxy=proxy, ca_pem=ca)
    return ModelLister(AddressPolicy.parse("public"), resolver=only_the_proxy, egress=egress)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
async def test_a_list_comes_through_every_kind_of_proxy(scheme: str, proxy_scheme: str) -> None:
    tls = CA.issue().server_context() if scheme == "https" else None
    proxy_tls = CA.issue("proxy.test").server_context() if proxy_scheme == "https" else None
    async with ScriptedUpstream(default=LIST, tls=tls) as up, RealProxy(user=USER, tls=proxy_tls) as proxy:
        asked = lister(Proxy.parse(f"{proxy_scheme}://{USER}@proxy.test:{proxy.port}"))
        url = f"{scheme}://provider.test:{up.port}"
        assert await asked.list_ids(pb.Provider(host_url=url), None) == ["m1"]
        assert len(proxy.tunnels if scheme == "https" else proxy.forwarded) == 1
        assert up.requests[0].header("proxy-authorization") is None
        assert up.requests[0].header("host") == f"provider.test:{up.port}"


async def test_a_certificate_is_shown_and_the_name_that_was_given_is_checked() -> None:
    client = CA.issue("registry.test")
    async with (
        ScriptedUpstream(default=LIST, tls=CA.issue("real.test").server_context(clients=CA)) as up,
        RealProxy() as proxy,
    ):
        provider = pb.Provider(host_url=f"https://alias.test:{up.port}", tls={"server_name": "real.test"})
        asked = lister(Proxy.parse(proxy.url))
        assert await asked.list_ids(provider, None, Secret(client.secret)) == ["m1"]
        assert up.connections[0].serial == client.serial
        provider.tls.server_name = ""
        with pytest.raises(DiscoveryFailed, match=r"^its TLS certificate is for another host name$"):
            await asked.list_ids(provider, None, Secret(client.secret))


FAULTS: dict[str, tuple[str | int, str]] = {
    "403": (403, "its proxy refused the connection to the provider (403)"),
    "407": (407, "its proxy demands other credentials (407)"),
    "garbage": ("garbage", "its proxy does not speak HTTP"),
    "close": ("close", "its proxy closed the connection"),
    "reset": ("reset", "its proxy closed the connection"),
    "bytes behind": ("early", "its proxy sent something before it was asked"),
}


@pytest.mark.parametrize(("fault", "text"), FAULTS.values(), ids=FAULTS.keys())
async def test_what_a_proxy_does_wrong_is_said_without_addresses(fault: str | int, text: str) -> None:
    async with RealProxy(user=USER) as proxy:
        proxy.fault = fault
        with pytest.raises(DiscoveryFailed) as caught:
            await lister(Proxy.parse(proxy.url)).list_ids(pb.Provider(host_url="https://provider.test"), None)
        assert str(caught.value) == text


async def test_a_proxy_that_cannot_be_trusted_or_found_is_told_from_the_provider() -> None:
    async with RealProxy(tls=OTHER.issue("proxy.test").server_context()) as proxy:
        provider = pb.Provider(host_url="https://provider.test")
        text = "its proxy shows a certificate that is not trusted: its authority is unknown"
        with pytest.raises(DiscoveryFailed) as caught:
            await lister(Proxy.parse(f"https://proxy.test:{proxy.port}")).list_ids(provider, None)
        assert str(caught.value) == text
        with pytest.raises(DiscoveryFailed, match=r"^its proxy has a name that cannot be resolved$"):
            await lister(Proxy.parse("http://nowhere.test:1")).list_ids(provider, None)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_metadata_is_not_asked_for_through_a_proxy(scheme: str) -> None:
    async with RealProxy() as proxy:
        for host in ("169.254.169.254", "metadata.google.internal"):
            with pytest.raises(DiscoveryFailed, match="never allowed"):
                await lister(Proxy.parse(proxy.url)).list_ids(pb.Provider(host_url=f"{scheme}://{host}"), None)
        assert not proxy.connections
