"""A certificate authority of the tests' own: it signs what a test asks for, in memory."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as PEM."""

    certificate: str
    key: str
    serial: int

    @property
    def pem(self) -> str:
        """Both, in one text."""
        return self.certificate + self.key

    @property
    def secret(self) -> str:
        """Both, as the value of a secret, which has no line ends."""
        return base64.b64encode(self.pem.encode()).decode()

    def server_context(self, *, clients: Authority | None = None) -> ssl.SSLContext:
        """A server's side; ``clients``: who has to vouch for callers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "server.pem")
            path.write_text(self.pem)
            context.load_cert_chain(path)
        context.set_alpn_protocols(["h2", "http/1.1"])
        if clients is not None:
            context.load_verify_locations(cadata=clients.pem)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Authority:
    """Signs certificates. ``pem`` is its own."""

    def __init__(self, name: str = "test-ca") -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        made = self._builder(self._name, self._key).add_extension(constraint, critical=True)
        self.pem = _pem(made.sign(self._key, hashes.SHA256()))

    def issue(
        self, name: str = "provider.test", *, address: str = "127.0.0.1", expired: bool = False, uri: str = ""
    ) -> Issued:
        """Sign a certificate for a name, an address and a URI if any; valid for an hour, or until an hour ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
        if uri:
            names.append(x509.UniformResourceIdentifier(uri))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            self._builder(subject, key, end=-_HOUR if expired else _HOUR)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Issued(_pem(made), private.decode(), made.serial_number)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, end: datetime.timedelta = _HOUR
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 24 * _HOUR)
            .not_valid_after(now + end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(signer, critical=False)
        )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
