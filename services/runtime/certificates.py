"""Certificates, keys and authorities that lie in files: read, judged, and read again when the files change.

A change that is unfit (half written, key and certificate of two pairs, expired) is not taken: what was in force stays
so, one line says why, and the metrics show it. Kubernetes exchanges mounted secrets by a symbolic link, which counts
as a change like any other.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from services.runtime.failures import CannotStart
from services.runtime.metrics import Family, Sample
from services.runtime.tls import as_file

if TYPE_CHECKING:  # loaded where there is a certificate to read: most processes without TLS do not need it
    from cryptography import x509

LOOK_SECONDS: Final = 1.0
"""Between two looks at the files."""
_MOST_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)


class CertificateError(CannotStart):
    """A file cannot be used; the message names it and says why, and shows nothing of a key."""


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where a certificate and its key lie, both PEM."""

    certificate: Path
    """The certificate first, then those between it and its authority."""
    key: Path


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its chain, and its key, as PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    not_after: float
    """Unix time at which the certificate expires."""

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let new handshakes of the context show this certificate; those under way keep theirs. Raises ssl.SSLError."""
        with as_file(f"{self.chain.decode('ascii')}\n{self.key.decode('ascii')}") as path:
            context.load_cert_chain(path)


@dataclass(frozen=True, slots=True)
class Authorities:
    """Certificates that vouch for others, as PEM."""

    pem: bytes
    not_after: float
    """Unix time at which the first of them expires."""


MaterialT = TypeVar("MaterialT", bound=KeyPair | Authorities)


def read_pair(files: KeyFiles) -> KeyPair:
    """Read a pair. Raises CertificateError unless it is one certificate chain and the RSA or ECDSA key to it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain = _certificates(files.certificate)
    text = _bytes(files.key)
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError:
        raise CertificateError(f"{files.key}: the key must not be encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{files.key}: must be a private key as PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{files.key}: must be an RSA or ECDSA key")
    if chain[0].public_key() != key.public_key():
        raise CertificateError(f"{files.key}: is not the key of the first certificate in {files.certificate}")
    pair = KeyPair(_pem(chain), text, chain[0].not_valid_after_utc.timestamp())
    try:
        pair.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except ssl.SSLError as error:  # a key that is too short, a digest that nobody takes any more
        why = (error.reason or "unknown").replace("_", " ").lower()
        raise CertificateError(f"{files.certificate}: TLS does not take it: {why}") from None
    return pair


def read_authorities(path: Path) -> Authorities:
    """Read a bundle of authorities. Raises CertificateError."""
    found = _certificates(path)
    return Authorities(_pem(found), min(each.not_valid_after_utc for each in found).timestamp())


def _certificates(path: Path) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(_bytes(path))
    except ValueError:
        found = []
    if not found:
        raise CertificateError(f"{path}: must have certificates as PEM")
    return found


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Write them anew, without what files have between them."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror or 'cannot be read'}") from None


class Kept(Generic[MaterialT]):
    """What some files hold, and hold later. ``value`` may be read from any thread."""

    def __init__(self, use: str, paths: Iterable[Path], read: Callable[[], MaterialT]) -> None:
        """``use`` names it in logs and metrics. Raises CertificateError."""
        self.use = use
        self._paths = tuple(paths)
        self._read = read
        self._stamp = self._stamped()
        self._followers: list[Callable[[MaterialT], None]] = []
        self._problem = ""
        self._told = True
        self.value: MaterialT = read()
        if self.value.not_after <= time.time():
            logger.warning("the certificate for %s expired on %s", use, _day(self.value.not_after))

    @property
    def stale(self) -> bool:
        """True while the files hold something unfit, and what they held before is in force."""
        return bool(self._problem)

    def follow(self, follower: Callable[[MaterialT], None]) -> None:
        """Have ``follower`` called, in the event loop, with every new value."""
        self._followers.append(follower)

    def look(self) -> None:
        """Take what the files hold if they have changed and it is fit."""
        stamp = self._stamped()
        if stamp == self._stamp:
            self._tell()
            return
        self._stamp = stamp
        try:
            value = self._read()
            if value.not_after <= time.time():
                raise CertificateError(f"{self._paths[0]}: expired on {_day(value.not_after)}")
        except CertificateError as error:
            # Two files are seldom exchanged in one moment: it is a problem if it still is one at the next look.
            self._problem, self._told = str(error), False
            return
        self._problem, self._told = "", True
        if value != self.value:
            self.value = value
            logger.info("the certificate for %s was read again; it expires on %s", self.use, _day(value.not_after))
            for follower in self._followers:
                follower(value)

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            logger.error("the certificate for %s stays the one before: %s", self.use, self._problem)

    def _stamped(self) -> tuple[object, ...]:
        found: list[object] = []
        for path in self._paths:
            try:
                stat = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        return tuple(found)


class Certificates:
    """All that one process keeps, with one watch over it."""

    def __init__(self) -> None:
        self._kept: list[Kept[KeyPair] | Kept[Authorities]] = []

    def pair(self, use: str, files: KeyFiles) -> Kept[KeyPair]:
        """Keep a pair. Raises CertificateError."""
        kept = Kept(use, (files.certificate, files.key), lambda: read_pair(files))
        self._kept.append(kept)
        return kept

    def authorities(self, use: str, path: Path) -> Kept[Authorities]:
        """Keep a bundle of authorities. Raises CertificateError."""
        kept = Kept(use, (path,), lambda: read_authorities(path))
        self._kept.append(kept)
        return kept

    def look(self) -> None:
        """Look at every file now."""
        for kept in self._kept:
            kept.look()

    async def watch(self, seconds: float = LOOK_SECONDS) -> None:
        """Look at the files again and again."""
        while True:
            await asyncio.sleep(seconds)
            self.look()

    @property
    def expiries(self) -> Mapping[str, float]:
        """Return by use the Unix time at which what is in force expires."""
        return {kept.use: kept.value.not_after for kept in self._kept}

    def metrics(self) -> Iterable[Family]:
        """Report when certificates expire, and which could not be read again."""
        if not self._kept:
            return
        ends = tuple(Sample(at, {"use": use}) for use, at in self.expiries.items())
        text = "When the certificate in force expires, Unix time."
        yield Family("junctor_tls_certificate_not_after_timestamp_seconds", "gauge", text, ends)
        stale = tuple(Sample(float(kept.stale), {"use": kept.use}) for kept in self._kept)
        text = "1 while the files hold something unfit and what they held before is in force."
        yield Family("junctor_tls_certificate_stale", "gauge", text, stale)


def _day(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
