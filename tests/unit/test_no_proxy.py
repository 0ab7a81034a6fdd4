"""Which hosts ``NO_PROXY`` names."""

from __future__ import annotations

import pytest

from services.runtime.no_proxy import NoProxy

CASES = {
    "nothing": ("", "a.test", 443, False),
    "star": ("*", "a.test", 443, True),
    "star among others": ("b.test,*", "10.0.0.1", 80, True),
    "the name itself": ("a.test", "a.test", 443, True),
    "a name below it": ("a.test", "x.y.a.test", 443, True),
    "a name that ends alike": ("a.test", "bada.test", 443, False),
    "a leading dot": (".a.test", "x.a.test", 443, True),
    "a leading dot and the name itself": (".a.test", "a.test", 443, True),
    "a leading star": ("*.a.test", "x.a.test", 443, True),
    "case": ("A.Test", "x.a.TEST", 443, True),
    "a trailing dot": ("a.test", "a.test.", 443, True),
    "spaces and empty entries": (" , b.test ,, a.test ", "a.test", 443, True),
    "spaces alone": ("b.test a.test", "a.test", 443, True),
    "the port": ("a.test:8443", "a.test", 8443, True),
    "another port": ("a.test:8443", "a.test", 443, False),
    "star with a port": ("*:80", "a.test", 80, True),
    "an address": ("10.0.0.1", "10.0.0.1", 443, True),
    "another address": ("10.0.0.1", "10.0.0.2", 443, False),
    "an address in another spelling": ("10.0.0.1", "0xa000001", 443, True),
    "an address is no suffix": ("0.0.1", "10.0.0.1", 443, False),
    "an address with its port": ("10.0.0.1:80", "10.0.0.1", 80, True),
    "a block": ("10.0.0.0/8", "10.200.3.4", 443, True),
    "outside the block": ("10.0.0.0/8", "11.0.0.1", 443, False),
    "a block with host bits": ("10.0.0.7/8", "10.200.3.4", 443, True),
    "a block says nothing of names": ("0.0.0.0/0", "a.test", 443, False),
    "IPv6": ("::1", "::1", 443, True),
    "IPv6 in brackets with a port": ("[fd00::1]:8080", "fd00::1", 8080, True),
    "IPv6 in brackets, another port": ("[fd00::1]:8080", "fd00::1", 80, False),
    "an IPv6 block": ("fd00::/8", "fd12::9", 443, True),
    "IPv4 in IPv6": ("10.0.0.0/8", "::ffff:10.1.1.1", 443, True),
    "not a block": ("10.0.0.0/99", "10.0.0.1", 443, False),
}


@pytest.mark.parametrize(("text", "host", "port", "expected"), CASES.values(), ids=CASES.keys())
def test_no_proxy(text: str, host: str, port: int, *, expected: bool) -> None:
    assert NoProxy(text).matches(host, port) is expected
    assert str(NoProxy(text)) == text
