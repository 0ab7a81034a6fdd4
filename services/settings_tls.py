"""The settings of TLS as one frozen part of the tree: which files, for what, and what does not go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.runtime.auth import TOKEN_ONLY, PeerRule, Proof
from services.runtime.certificates import CertificateError, KeyFiles, read_authorities, read_pair


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of certificates. None: that part goes without TLS."""

    edge: KeyFiles | None = None
    grpc: KeyFiles | None = None
    """Of all gRPC listeners."""
    peer_authorities: Path | None = None
    """Who vouches for services that are called."""
    own: KeyFiles | None = None
    """Shown to services that are called."""
    client_authorities: Path | None = None
    """Who vouches for other processes that call; None: no caller is asked for a certificate."""
    peer_port: int | None = None
    """None: certificates are demanded at the gRPC port itself."""
    peers: PeerRule = TOKEN_ONLY

    @property
    def used(self) -> bool:
        """True if any file is set."""
        return any((self.edge, self.grpc, self.peer_authorities))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Tls:
        """Take it out of all values, which :func:`tls_problems` has found nothing against."""
        edge = _files(values, "tls")
        return cls(
            edge=edge,
            grpc=_files(values, "grpc_tls") or edge,
            peer_authorities=values["peer_ca_file"],
            own=_files(values, "peer"),
            client_authorities=values["peer_client_ca_file"],
            peer_port=values["peer_port"],
            peers=PeerRule(frozenset(values["peer_names"] or ()), Proof(values["peer_proof"])),
        )


def tls_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each thing that is missing, unfit or without effect."""
    for prefix in ("tls", "grpc_tls", "peer"):
        given = [values[f"{prefix}_{kind}_file"] is not None for kind in ("cert", "key")]
        if given[0] != given[1]:
            there, lacking = ("CERT", "KEY") if given[0] else ("KEY", "CERT")
            name = f"JUNCTOR_{prefix.upper()}"
            yield f"{name}_{lacking}_FILE: is needed as well, since {name}_{there}_FILE is set"
        elif (files := _files(values, prefix)) is not None:
            yield from _unfit(f"JUNCTOR_{prefix.upper()}_CERT_FILE", lambda files=files: read_pair(files))
    for name in ("peer_ca_file", "peer_client_ca_file"):
        if (path := values[name]) is not None:
            yield from _unfit(f"JUNCTOR_{name.upper()}", lambda path=path: read_authorities(path))
    yield from _without_effect(values)


def _without_effect(values: Mapping[str, Any]) -> Iterator[str]:
    server = values["tls_cert_file"] or values["grpc_tls_cert_file"]
    if values["peer_client_ca_file"] is not None and server is None:
        yield "JUNCTOR_PEER_CLIENT_CA_FILE: needs a certificate of our own as well: JUNCTOR_TLS_CERT_FILE"
    if values["peer_cert_file"] is not None and values["peer_ca_file"] is None:
        yield "JUNCTOR_PEER_CERT_FILE: is only shown over TLS, which needs JUNCTOR_PEER_CA_FILE"
    if values["peer_client_ca_file"] is not None:
        if values["peer_proof"] != "either" and not values["peer_names"]:
            yield "JUNCTOR_PEER_NAMES: is needed, since JUNCTOR_PEER_PROOF demands one of them"
        return
    for name in ("peer_port", "peer_names"):
        if values[name] is not None:
            yield f"JUNCTOR_{name.upper()}: needs JUNCTOR_PEER_CLIENT_CA_FILE, by which certificates are checked"
    if values["peer_proof"] != "either":
        yield "JUNCTOR_PEER_PROOF: needs JUNCTOR_PEER_CLIENT_CA_FILE, by which certificates are checked"


def _files(values: Mapping[str, Any], prefix: str) -> KeyFiles | None:
    certificate, key = values[f"{prefix}_cert_file"], values[f"{prefix}_key_file"]
    return KeyFiles(certificate, key) if certificate is not None and key is not None else None


def _unfit(name: str, read: Any) -> Iterator[str]:
    try:
        read()
    except CertificateError as error:
        yield f"{name}: {error}"
