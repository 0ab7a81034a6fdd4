"""``junctor.Client``: everything that junctor serves, blocking."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import httpx

from junctor import config
from junctor.records import Json
from junctor.request import Request
from junctor.resources import kinds
from junctor.resources.access_blocking import Audit, Keys, Members
from junctor.resources.blocking import Models, Providers, Secrets, ServedModels, VirtualModels, Workspaces
from junctor.resources.gateway_blocking import Gateway
from junctor.resources.usage_blocking import Prices, Usage
from junctor.retries import MAX_RETRIES, RetryPolicy
from junctor.transport import ANSWER_SECONDS, Options, Transport

if TYPE_CHECKING:
    from junctor.grpc_inference import GrpcInference

T = TypeVar("T")


class Inference:
    """Providers, what can be called, and calls through the gateway."""

    def __init__(self, transport: Transport) -> None:
        self.providers = Providers(transport, kinds.PROVIDERS)
        self.models = ServedModels(transport)
        self.virtual_models = VirtualModels(transport, kinds.VIRTUAL_MODELS)
        self.gateway = Gateway(transport)


class Client:
    """A client for one junctor, safe to use from several threads.

    Where it is: argument over ``JUNCTOR_BASE_URL``, ``JUNCTOR_WORKSPACE``, ``JUNCTOR_ACCESS_TOKEN``,
    ``JUNCTOR_GRPC_TARGET``, ``JUNCTOR_TLS_CA_FILE`` over the current context of the config file. Use it in a ``with``
    block, or :meth:`close` it. Raises InvalidField for an address or token that cannot be used.
    """

    def __init__(  # noqa: PLR0913 - keyword-only, all optional
        self,
        base_url: str | None = None,
        *,
        workspace: str | None = None,
        access_token: str | None = None,
        grpc_target: str | None = None,
        ca_file: str | None = None,
        timeout: float = ANSWER_SECONDS,
        max_retries: int = MAX_RETRIES,
        http_client: httpx.Client | None = None,
    ) -> None:
        """``timeout``: longest silence, seconds. ``ca_file``: PEM file of the authorities that vouch for junctor.

        ``http_client``: yours, for proxies or TLS of your own making; it is not closed.
        """
        self.settings = config.resolve(
            base_url=base_url,
            workspace=workspace,
            access_token=access_token,
            grpc_target=grpc_target,
            ca_file=ca_file,
        )
        self._transport = Transport(Options(self.settings, timeout, RetryPolicy(max_retries)), http_client)
        self._grpc: GrpcInference | None = None
        self._opening = threading.Lock()
        self.workspaces = Workspaces(self._transport, kinds.WORKSPACES)
        self.secrets = Secrets(self._transport, kinds.SECRETS)
        self.models = Models(self._transport)
        self.inference = Inference(self._transport)
        self.virtual_models = self.inference.virtual_models
        self.keys = Keys(self._transport)
        self.members = Members(self._transport)
        self.audit = Audit(self._transport)
        self.usage = Usage(self._transport)
        self.prices = Prices(self._transport)

    @property
    def grpc(self) -> GrpcInference:
        """The typed inference API over gRPC; connects at first use."""
        with self._opening:
            if self._grpc is None:
                from junctor.grpc_inference import GrpcInference

                self._grpc = GrpcInference(self.settings)
            return self._grpc

    def send(self, request: Request[T]) -> T:
        """Send a request of your own building, with this client's address, credential, retries and errors."""
        return self._transport.send(request)

    def status(self) -> Json:
        """Return the state of every service, as ``GET /status`` has it."""
        return self._transport.send(kinds.status())

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()
        if self._grpc is not None:
            self._grpc.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
