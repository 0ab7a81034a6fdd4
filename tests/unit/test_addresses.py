"""Every spelling of an address is understood, and the policy decides by what the address is."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from junctor.errors import AddressRefused
from services.runtime.addresses import AddressPolicy, Network, classify, is_metadata_name, literal_address

METADATA_SPELLINGS = [
    "169.254.169.254",
    "169.254.169.254.",
    "2852039166",
    "0xa9fea9fe",
    "0xA9FEA9FE",
    "025177524776",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "0xa9.254.0251.254",
    "169.0xfea9fe",
    "::ffff:169.254.169.254",
    "[::ffff:169.254.169.254]",
    "::ffff:a9fe:a9fe",
    "::ffff:0:a9fe:a9fe",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "::a9fe:a9fe",
    "①⑥⑨.②⑤④.①⑥⑨.②⑤④",
    "169。254。169。254",
    "１６９．２５４．１６９．２５４",
]


@pytest.mark.parametrize("host", METADATA_SPELLINGS)
def test_every_spelling_of_the_metadata_address_is_refused(host: str) -> None:
    address = literal_address(host)
    assert address is not None
    assert classify(address) is Network.METADATA
    with pytest.raises(AddressRefused):
        AddressPolicy.parse("public,private,loopback").check(address)


LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.01",
    "017700000001",
    "127.255.255.254",
    "::1",
    "[::1]",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
]


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_every_spelling_of_loopback_is_loopback(host: str) -> None:
    address = literal_address(host)
    assert address is not None
    assert classify(address) is Network.LOOPBACK
    AddressPolicy.parse("loopback").check(address)
    with pytest.raises(AddressRefused):
        AddressPolicy.parse("public,private").check(address)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "localhost",
        "256.1.1.1",
        "1.2.3.4.5",
        "4294967296",
        "1.16777216",
        "08.1.1.1",
        "1.2.3.4x",
        "0xg",
        "",
        ".",
        "1..2",
        "a.1",
        "[::1",
        "::zz",
        "9" * 5000,
    ],
)
def test_what_spells_no_address_is_a_name(host: str) -> None:
    assert literal_address(host) is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("8.8.8.8", Network.PUBLIC),
        ("2606:4700::1111", Network.PUBLIC),
        ("10.1.2.3", Network.PRIVATE),
        ("172.31.255.255", Network.PRIVATE),
        ("172.32.0.1", Network.PUBLIC),
        ("192.168.0.1", Network.PRIVATE),
        ("100.64.0.1", Network.PRIVATE),
        ("fd12::1", Network.PRIVATE),
        ("64:ff9b::10.0.0.1", Network.PRIVATE),
        ("2002:0a00:0001::1", Network.PRIVATE),
        ("64:ff9b::8.8.8.8", Network.PUBLIC),
        ("169.254.0.1", Network.LINK_LOCAL),
        ("fe80::1", Network.LINK_LOCAL),
        ("fe80::1%eth0", Network.LINK_LOCAL),
        ("febf::1", Network.LINK_LOCAL),
        ("169.254.170.2", Network.METADATA),
        ("100.100.100.200", Network.METADATA),
        ("168.63.129.16", Network.METADATA),
        ("192.0.0.192", Network.METADATA),
        ("fd00:ec2::254", Network.METADATA),
        ("fd00:ec2::254%1", Network.METADATA),
        ("fd20:ce::254", Network.METADATA),
        ("0.0.0.0", Network.UNSPECIFIED),
        ("0.1.2.3", Network.UNSPECIFIED),
        ("::", Network.UNSPECIFIED),
        ("::ffff:0.0.0.0", Network.UNSPECIFIED),
        ("224.0.0.1", Network.MULTICAST),
        ("ff02::1", Network.MULTICAST),
        ("255.255.255.255", Network.RESERVED),
        ("240.0.0.1", Network.RESERVED),
        ("192.0.2.1", Network.RESERVED),
        ("2001:db8::1", Network.RESERVED),
        ("2001:0:1::1", Network.RESERVED),
        ("5f00::1", Network.RESERVED),
    ],
)
def test_an_address_is_put_in_its_network(address: str, network: Network) -> None:
    assert classify(ip_address(address)) is network


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("metadata.google.internal", True),
        ("METADATA.google.internal.", True),
        ("foo.metadata.google.internal", True),
        ("instance-data", True),
        ("169.254.169.254.nip.io", True),
        ("www.169.254.169.254.nip.io", True),
        ("169-254-169-254.sslip.io", True),
        ("app-10-169-254-169-254.sslip.io", True),
        ("a9fea9fe.nip.io", True),
        ("7f000001.a9fea9fe.rbndr.us", True),
        ("2852039166.example.com", True),
        ("fd00-ec2--254.sslip.io", True),
        ("fe80--1.sslip.io", True),
        ("--ffff-169-254-169-254.sslip.io", True),
        ("169.254.1.1.nip.io", True),
        ("api.openai.com", False),
        ("127.0.0.1.nip.io", False),
        ("10-0-0-1.sslip.io", False),
        ("deadbeef.example.com", False),
        ("feedface.example.com", False),
        ("gpt-4-1-2025.example.com", False),
        ("1169.254.169.254.example.com", False),
        ("metadata.example.com", False),
    ],
)
def test_names_of_metadata_services_are_known(host: str, *, expected: bool) -> None:
    assert is_metadata_name(host) is expected


@pytest.mark.parametrize("text", ["", " , ", "public,lan", "link-local", "metadata"])
def test_a_policy_of_unknown_words_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="public, private, loopback"):
        AddressPolicy.parse(text)


def test_a_refusal_names_the_network_but_not_the_address() -> None:
    with pytest.raises(AddressRefused) as caught:
        AddressPolicy.parse("public").check(ip_address("10.1.2.3"))
    assert "private" in caught.value.message
    assert "10.1.2.3" not in caught.value.message
