"""PEM in a secret's value: both forms give the same bytes, and nothing else passes."""

from __future__ import annotations

import base64
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from junctor.errors import CredentialUnavailable
from services.provider_registry.secrets import value_rule
from services.runtime.pem import RULE, decode_pem


def _certificate_and_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (certificate.public_bytes(serialization.Encoding.PEM) + secret).decode()


PEM = _certificate_and_key()
CRLF = PEM.replace("\n", "\r\n")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(PEM.replace("\n", r"\n"), id="escaped"),
        pytest.param(PEM.rstrip("\n").replace("\n", r"\n"), id="escaped-without-last-line-end"),
        pytest.param(CRLF.replace("\r\n", r"\r\n"), id="escaped-crlf"),
        pytest.param(encoded(PEM), id="base64"),
        pytest.param(encoded(CRLF), id="base64-of-crlf"),
        pytest.param(encoded(PEM.rstrip("\n")), id="base64-without-last-line-end"),
        pytest.param(f" {encoded(PEM)} ", id="space-around"),
    ],
)
def test_both_forms_give_the_file_and_fit_in_a_secret(value: str) -> None:
    assert value_rule(value) is None
    assert decode_pem(value) == PEM.encode()


def test_openssl_takes_what_comes_out(tmp_path: Path) -> None:
    file = tmp_path / "client.pem"
    file.write_bytes(decode_pem(encoded(PEM)))
    ssl.create_default_context().load_cert_chain(file)


def test_text_around_the_blocks_is_kept() -> None:
    assert decode_pem(encoded(f"subject=CN = client\n{PEM}")) == f"subject=CN = client\n{PEM}".encode()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("sk-not-a-certificate", id="an-api-key"),
        pytest.param(encoded("no PEM in here"), id="base64-of-something-else"),
        pytest.param(encoded(PEM)[:-8] + "!!!!", id="broken-base64"),
        pytest.param(encoded(PEM[:-30]), id="cut-off"),
        pytest.param(PEM.replace("\n", " "), id="spaces-for-line-ends"),
        pytest.param(PEM.replace("\n", ""), id="no-line-ends"),
        pytest.param(PEM.replace("PRIVATE KEY-----", "PRIVATE ROAD-----", 1).replace("\n", r"\n"), id="ends-otherwise"),
        pytest.param(f"é{PEM}".replace("\n", r"\n"), id="not-ascii"),
        pytest.param("-----BEGIN X-----" * 3000, id="begins-for-ever"),
    ],
)
def test_anything_else_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(CredentialUnavailable) as refused:
        decode_pem(value)
    assert RULE in refused.value.message
    assert not value or value[:20] not in str(refused.value)
