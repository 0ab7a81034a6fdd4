"""The settings of the way out: proxies, also by the variables of other tools, authorities, allowed header fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.settings import Settings, SettingsError
from tests.pki import Authority

P1, P2, P3, P4 = (f"http://p{number}.test:1" for number in (1, 2, 3, 4))

PRECEDENCE: dict[str, tuple[dict[str, str], str, str | None, str]] = {
    "nothing": ({}, "", None, "default"),
    "the variable of other tools": ({"HTTPS_PROXY": P1}, "", P1, "HTTPS_PROXY"),
    "its lower case wins": ({"HTTPS_PROXY": P1, "https_proxy": P2}, "", P2, "https_proxy"),
    "the file wins over both": ({"HTTPS_PROXY": P1, "https_proxy": P2}, P3, P3, "file"),
    "ours wins over all": ({"HTTPS_PROXY": P1, "JUNCTOR_HTTPS_PROXY": P4}, P3, P4, "env"),
    "none": ({"HTTPS_PROXY": P1, "JUNCTOR_HTTPS_PROXY": "none"}, "", None, "env"),
    "an empty variable is an unset one": ({"HTTPS_PROXY": "", "JUNCTOR_HTTPS_PROXY": ""}, "", None, "default"),
    "the other scheme's says nothing": ({"HTTP_PROXY": P1}, "", None, "default"),
}


@pytest.mark.parametrize(("environ", "file", "expected", "origin"), PRECEDENCE.values(), ids=PRECEDENCE.keys())
def test_where_a_proxy_comes_from(
    tmp_path: Path, environ: dict[str, str], file: str, expected: str | None, origin: str
) -> None:
    config = tmp_path / "junctor.toml"
    config.write_text(f'https_proxy = "{file}"\n' if file else "")
    settings = Settings.load({}, {"HOME": str(tmp_path)} | environ, config)
    proxy = settings.egress.https_proxy
    assert (None if proxy is None else proxy.reveal()) == expected
    assert settings.origins["https_proxy"] == origin


def test_no_proxy_and_authorities_are_read(tmp_path: Path) -> None:
    ca = Authority()
    bundle = tmp_path / "ca.pem"
    bundle.write_text(ca.pem)
    environ = {"HOME": str(tmp_path), "HTTP_PROXY": P1, "no_proxy": "inner.test", "JUNCTOR_CA_FILE": str(bundle)}
    egress = Settings.load({}, environ).egress
    assert egress.proxy_for("http", "a.inner.test", 80) is None
    outer = egress.proxy_for("http", "outer.test", 80)
    assert outer is not None
    assert (outer.host, outer.ca_pem) == ("p1.test", ca.pem)


def test_lists_of_the_file_are_read(tmp_path: Path) -> None:
    config = tmp_path / "junctor.toml"
    config.write_text('no_proxy = ["a.test", "10.0.0.0/8"]\nrequest_headers = ["X-A", "user-agent"]\n')
    settings = Settings.load({}, {"HOME": str(tmp_path)}, config)
    assert settings.egress.no_proxy.matches("10.1.1.1", 1)
    assert settings.request_headers == {b"x-a", b"user-agent", b"content-type", b"accept"}


def test_every_header_field_passes_by_default(tmp_path: Path) -> None:
    for value in ("", "all", "ALL"):
        environ = {"HOME": str(tmp_path), "JUNCTOR_REQUEST_HEADERS": value}
        assert Settings.load({}, environ).request_headers is None


BAD = {
    "a proxy of another kind": (
        "JUNCTOR_HTTP_PROXY",
        "socks5://u:hidden@p.test",
        "JUNCTOR_HTTP_PROXY: must be http://",
    ),
    "the same by convention": ("HTTP_PROXY", "socks5://u:hidden@p.test", "HTTP_PROXY: must be http://"),
    "authorities that are not there": ("JUNCTOR_CA_FILE", "/nowhere/ca.pem", "PEM certificates that can be read"),
    "authorities that are none": ("JUNCTOR_CA_FILE", __file__, "PEM certificates that can be read"),
    "no header name": ("JUNCTOR_REQUEST_HEADERS", "x-a, x b", "names of header fields"),
}


@pytest.mark.parametrize(("variable", "value", "text"), BAD.values(), ids=BAD.keys())
def test_what_is_bad_is_said_and_not_shown(tmp_path: Path, variable: str, value: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text) as caught:
        Settings.load({}, {"HOME": str(tmp_path), variable: value})
    assert "hidden" not in str(caught.value)


def test_credentials_are_printed_only_if_asked_for(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "HTTPS_PROXY": "http://us:s3cr3t@p.test:1", "JUNCTOR_REQUEST_HEADERS": "x-b,x-a"}
    settings = Settings.load({}, environ)
    assert 'https_proxy = "http://[redacted]@p.test:1"' in settings.render()
    assert "s3cr3t" not in settings.render() + repr(settings)
    whole = tmp_path / "whole.toml"
    whole.write_text(settings.render(redact=False))
    again = Settings.load({}, {"HOME": str(tmp_path)}, whole)
    assert (again.egress, again.request_headers) == (settings.egress, settings.request_headers)
