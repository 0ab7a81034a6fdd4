"""What the listeners and channels of one process have of TLS, made from its settings."""

from __future__ import annotations

import ssl

import grpc

from junctor.channel import Metadata, Peer, open_channel, open_peer
from services.runtime.certificates import Authorities, Certificates, Kept, KeyPair
from services.runtime.grpc_tls import open_tls_channel, open_tls_peer, server_credentials
from services.settings_tls import Tls


class ProcessTls:
    """Every part is None, or without TLS, where the settings name no files for it."""

    def __init__(self, tls: Tls) -> None:
        """Nothing is read yet; every method may raise CertificateError."""
        self._tls = tls
        self.certificates = Certificates()
        """All that is in force: watch over it, ask it for metrics."""
        self._listener: Kept[KeyPair] | None = None
        self._authorities: Kept[Authorities] | None = None
        self._own: Kept[KeyPair] | None = None

    def edge(self) -> ssl.SSLContext | None:
        """Return the context of the HTTP edge."""
        if self._tls.edge is None:
            return None
        from services.runtime.tls_listener import server_context

        return server_context(self.certificates.pair("edge", self._tls.edge))

    def grpc_port(self) -> grpc.ServerCredentials | None:
        """Return what the gRPC port shows, and whether it demands certificates: not if there is a port for peers."""
        if self._tls.grpc is None:
            return None
        self._listener = self.certificates.pair("grpc", self._tls.grpc)
        clients = self._clients() if self._tls.peer_port is None else None
        return server_credentials(self._listener, clients)

    def peer_port(self) -> grpc.ServerCredentials | None:
        """Return the same for the port of other processes, after :meth:`grpc_port`; None: there is no such port."""
        if self._tls.peer_port is None or self._listener is None:
            return None
        return server_credentials(self._listener, self._clients())

    def open_peer(self, target: str, *, name: str, metadata: Metadata) -> Peer:
        """Open a channel to a service in another process."""
        authorities = self._of_peers()
        if authorities is None:
            return open_peer(target, name=name, metadata=metadata)
        return open_tls_peer(target, name=name, metadata=metadata, authorities=authorities, own=self._own)

    def open_channel(self, target: str, *, host: str = "") -> grpc.aio.Channel:
        """Open one that is closed before certificates are exchanged; ``host``: see :func:`open_tls_channel`."""
        authorities = self._of_peers()
        if authorities is None:
            return open_channel(target)
        return open_tls_channel(target, authorities=authorities, own=self._own, host=host)

    def _of_peers(self) -> Kept[Authorities] | None:
        if self._tls.peer_authorities is not None and self._authorities is None:
            self._authorities = self.certificates.authorities("peer-authorities", self._tls.peer_authorities)
            self._own = None if self._tls.own is None else self.certificates.pair("peer", self._tls.own)
        return self._authorities

    def _clients(self) -> Kept[Authorities] | None:
        if self._tls.client_authorities is None:
            return None
        return self.certificates.authorities("client-authorities", self._tls.client_authorities)
