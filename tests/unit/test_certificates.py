"""Certificates in files: what is taken, what is refused, and what happens when the files change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from services.runtime.certificates import (
    CertificateError,
    Certificates,
    Kept,
    KeyFiles,
    KeyPair,
    read_authorities,
    read_pair,
)
from services.runtime.metrics import render
from tests.mount import Mount
from tests.pki import Authority, Issued

CA = Authority()
ONE = CA.issue("one.test")
OTHER = CA.issue("other.test")
EXPIRED = CA.issue("one.test", expired=True)


def mounted(folder: Path, issued: Issued = ONE) -> Mount:
    mount = Mount(folder)
    mount.put_pair(issued, CA)
    return mount


def files(mount: Mount) -> KeyFiles:
    return KeyFiles(mount.certificate, mount.key)


def kept(mount: Mount) -> Kept[KeyPair]:
    return Certificates().pair("edge", files(mount))


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b"") -> str:
    secured: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        secured = serialization.BestAvailableEncryption(password)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, secured).decode()


def test_a_pair_is_read_with_its_chain(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    mount.put(tls_crt=f"bag attributes: Ä\n{ONE.certificate}# between\n{CA.pem}", tls_key=ONE.key)
    pair = read_pair(files(mount))
    assert pair.chain == (ONE.certificate + CA.pem).encode()
    assert pair.key == ONE.key.encode()
    assert ONE.key[40:80] not in repr(pair)
    pair.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


UNFIT: dict[str, tuple[dict[str, str], str]] = {
    "no certificate file": ({"tls_key": ONE.key}, r"tls\.crt: No such file"),
    "no key file": ({"tls_crt": ONE.certificate}, r"tls\.key: No such file"),
    "empty": ({"tls_crt": "", "tls_key": ONE.key}, r"tls\.crt: must have certificates as PEM"),
    "half a certificate": (
        {"tls_crt": ONE.certificate[:200], "tls_key": ONE.key},
        r"tls\.crt: must have certificates as PEM",
    ),
    "key and certificate exchanged": ({"tls_crt": ONE.key, "tls_key": ONE.certificate}, "must have certificates"),
    "key of another pair": ({"tls_crt": ONE.certificate, "tls_key": OTHER.key}, "is not the key of the first"),
    "chain in the wrong order": ({"tls_crt": CA.pem + ONE.certificate, "tls_key": ONE.key}, "is not the key of"),
    "half a key": ({"tls_crt": ONE.certificate, "tls_key": ONE.key[:100]}, r"tls\.key: must be a private key"),
    "encrypted key": (
        {"tls_crt": ONE.certificate, "tls_key": pem(rsa.generate_private_key(65537, 2048), b"hunter2")},
        "must not be encrypted",
    ),
    "a kind of key that gRPC does not take": (
        {"tls_crt": ONE.certificate, "tls_key": pem(ed25519.Ed25519PrivateKey.generate())},
        "must be an RSA or ECDSA key",
    ),
}


@pytest.mark.parametrize(("content", "why"), UNFIT.values(), ids=UNFIT)
def test_what_is_no_pair_is_refused_and_not_shown(tmp_path: Path, content: dict[str, str], why: str) -> None:
    mount = Mount(tmp_path)
    mount.put(**content)
    with pytest.raises(CertificateError, match=why) as caught:
        read_pair(files(mount))
    assert "BEGIN" not in str(caught.value)


def test_authorities_are_read_until_the_first_expires(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text(CA.pem + "\n" + Authority("second").pem)
    assert read_authorities(bundle).pem.count(b"BEGIN") == 2
    bundle.write_text("none")
    with pytest.raises(CertificateError, match=r"ca\.crt: must have certificates"):
        read_authorities(bundle)


CHANGES: dict[str, Callable[[Mount], None]] = {
    "link exchanged": lambda mount: mount.put_pair(OTHER, CA),
    "files written over": lambda mount: (
        [
            (mount.folder / "..data" / name).write_text(text)
            for name, text in (("tls.crt", OTHER.certificate), ("tls.key", OTHER.key))
        ]
        and None
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_taken_and_told_to_followers(tmp_path: Path, change: Callable[[Mount], None]) -> None:
    mount = mounted(tmp_path)
    pair = kept(mount)
    told: list[KeyPair] = []
    pair.follow(told.append)
    pair.look()
    assert told == []
    change(mount)
    pair.look()
    assert [each.key for each in told] == [OTHER.key.encode()]
    assert pair.value is told[0]
    pair.look()
    assert len(told) == 1


BAD: dict[str, dict[str, str]] = {
    "certificate before its key": {"tls_crt": OTHER.certificate, "tls_key": ONE.key},
    "gone": {},
    "rubbish": {"tls_crt": "x", "tls_key": "y"},
    "expired": {"tls_crt": EXPIRED.certificate, "tls_key": EXPIRED.key},
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_change_keeps_what_was_in_force_says_so_once_and_heals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: dict[str, str]
) -> None:
    mount = mounted(tmp_path)
    certificates = Certificates()
    pair = certificates.pair("edge", files(mount))
    told: list[KeyPair] = []
    pair.follow(told.append)
    mount.put(**content)
    for _ in range(5):
        certificates.look()
    assert pair.value.key == ONE.key.encode()
    assert told == []
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "the certificate for edge stays the one before" in errors[0]
    assert 'junctor_tls_certificate_stale{use="edge"} 1' in render(certificates.metrics())
    mount.put_pair(OTHER, CA)
    certificates.look()
    assert [each.key for each in told] == [OTHER.key.encode()]
    assert 'junctor_tls_certificate_stale{use="edge"} 0' in render(certificates.metrics())


def test_two_files_exchanged_one_after_the_other_are_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mount = mounted(tmp_path)
    pair = kept(mount)
    mount.put(tls_crt=OTHER.certificate, tls_key=ONE.key)
    pair.look()
    mount.put_pair(OTHER, CA)
    pair.look()
    assert pair.value.key == OTHER.key.encode()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_metrics_say_when_what_is_in_force_expires(tmp_path: Path) -> None:
    certificates = Certificates()
    assert list(certificates.metrics()) == []
    pair = certificates.pair("edge", files(mounted(tmp_path)))
    certificates.authorities("clients", tmp_path / "ca.crt")
    assert certificates.expiries["edge"] == pair.value.not_after
    shown = render(certificates.metrics())
    assert 'junctor_tls_certificate_not_after_timestamp_seconds{use="edge"}' in shown
    assert 'junctor_tls_certificate_not_after_timestamp_seconds{use="clients"}' in shown


def test_an_expired_certificate_at_the_start_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(mounted(tmp_path, EXPIRED))
    assert "the certificate for edge expired on" in caplog.text
