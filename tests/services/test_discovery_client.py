"""How a model list is fetched: pinned addresses, TLS, and failures that name nothing."""

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.discovery_client import DiscoveryFailed, ModelLister
from services.runtime.addresses import AddressPolicy
from services.runtime.auth import Secret
from tests.upstream import Json, ScriptedUpstream

LOOPBACK = AddressPolicy.parse("loopback")
LIST = Json(200, {"data": [{"id": "m1"}]})


def resolving_to(*addresses):
    asked = []

    async def resolve(host, port):
        asked.append(host)
        return addresses

    resolve.asked = asked
    return resolve


async def failing_resolver(host, port):
    raise OSError(f"no such host {host}")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "models.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("models.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = made.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, pem.decode()


async def test_a_name_is_resolved_checked_and_kept_in_host(upstream):
    upstream.always(LIST)
    resolver = resolving_to("127.0.0.1")
    provider = pb.Provider(host_url=f"http://models.example:{upstream.port}")
    assert await ModelLister(LOOPBACK, resolver=resolver).list_ids(provider, None) == ["m1"]
    assert resolver.asked == ["models.example"]
    assert upstream.requests[0].header("host") == f"models.example:{upstream.port}"
    assert upstream.requests[0].header("authorization") is None


@pytest.mark.parametrize(
    "addresses",
    [("169.254.169.254",), ("::ffff:169.254.169.254",), ("10.0.0.1",), ("0.0.0.0",), ("fe80::1",)],
    ids=str,
)
async def test_a_name_that_means_a_refused_address_is_not_connected_to(addresses):
    provider = pb.Provider(host_url="http://models.example")
    with pytest.raises(DiscoveryFailed, match="address is") as caught:
        await ModelLister(LOOPBACK, resolver=resolving_to(*addresses)).list_ids(provider, None)
    assert not any(address in str(caught.value) for address in addresses)


async def test_the_next_address_is_tried_when_one_is_refused_or_dead(upstream):
    upstream.always(LIST)
    provider = pb.Provider(host_url=f"http://models.example:{upstream.port}")
    lister = ModelLister(LOOPBACK, resolver=resolving_to("169.254.169.254", "127.0.0.2", "127.0.0.1"))
    assert await lister.list_ids(provider, None) == ["m1"]


async def test_a_name_that_cannot_be_resolved_is_said_without_the_name():
    provider = pb.Provider(host_url="http://models.example")
    with pytest.raises(DiscoveryFailed, match=r"^its name cannot be resolved$"):
        await ModelLister(LOOPBACK, resolver=failing_resolver).list_ids(provider, None)


async def test_a_private_authority_is_trusted_when_the_provider_brings_it(certificate):
    context, pem = certificate
    async with ScriptedUpstream(default=LIST, tls=context) as upstream:
        url = f"https://models.example:{upstream.port}"
        lister = ModelLister(LOOPBACK, resolver=resolving_to("127.0.0.1"))
        assert await lister.list_ids(pb.Provider(host_url=url, tls={"ca_bundle_pem": pem}), None) == ["m1"]
        with pytest.raises(DiscoveryFailed, match=r"^its TLS certificate is not trusted: it vouches for itself$"):
            await lister.list_ids(pb.Provider(host_url=url), None)
        other = pb.Provider(host_url=f"https://other.example:{upstream.port}", tls={"ca_bundle_pem": pem})
        with pytest.raises(DiscoveryFailed, match=r"^its TLS certificate is for another host name$"):
            await lister.list_ids(other, None)
        other.tls.server_name = "models.example"
        assert await lister.list_ids(other, None) == ["m1"]


async def test_a_secret_that_no_header_can_carry_is_a_failure_that_does_not_show_it(upstream):
    lister = ModelLister(LOOPBACK)
    with pytest.raises(DiscoveryFailed) as caught:
        await lister.list_ids(pb.Provider(host_url=upstream.url), Secret("sk-1\r\nx: y"))
    assert "sk-1" not in str(caught.value)
    assert upstream.requests == []


async def test_a_proxy_is_asked_instead_and_its_address_is_checked_too(upstream):
    upstream.always(LIST)
    resolver = resolving_to("127.0.0.1")
    provider = pb.Provider(host_url="http://models.example", proxy=f"http://proxy.example:{upstream.port}")
    assert await ModelLister(LOOPBACK, resolver=resolver).list_ids(provider, None) == ["m1"]
    assert resolver.asked == ["proxy.example"]
    assert upstream.requests[0].target == "http://models.example/v1/models"
    with pytest.raises(DiscoveryFailed, match="does not allow the proxy's address"):
        await ModelLister(AddressPolicy.parse("public"), resolver=resolver).list_ids(provider, None)
