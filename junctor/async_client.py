"""``junctor.AsyncClient``: everything that junctor serves, for asyncio."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import httpx

from junctor import config
from junctor.records import Json
from junctor.request import Request
from junctor.resources import kinds
from junctor.resources.access_awaited import AsyncAudit, AsyncKeys, AsyncMembers
from junctor.resources.awaited import (
    AsyncModels,
    AsyncProviders,
    AsyncSecrets,
    AsyncServedModels,
    AsyncVirtualModels,
    AsyncWorkspaces,
)
from junctor.resources.gateway_awaited import AsyncGateway
from junctor.resources.usage_awaited import AsyncPrices, AsyncUsage
from junctor.retries import MAX_RETRIES, RetryPolicy
from junctor.transport import ANSWER_SECONDS, AsyncTransport, Options

if TYPE_CHECKING:
    from junctor.grpc_inference import AsyncGrpcInference

T = TypeVar("T")


class AsyncInference:
    """Providers, what can be called, and calls through the gateway."""

    def __init__(self, transport: AsyncTransport) -> None:
        self.providers = AsyncProviders(transport, kinds.PROVIDERS)
        self.models = AsyncServedModels(transport)
        self.virtual_models = AsyncVirtualModels(transport, kinds.VIRTUAL_MODELS)
        self.gateway = AsyncGateway(transport)


class AsyncClient:
    """A client for one junctor, for one event loop. The async twin of :class:`junctor.Client`.

    Where it is: argument over ``JUNCTOR_BASE_URL``, ``JUNCTOR_WORKSPACE``, ``JUNCTOR_ACCESS_TOKEN``,
    ``JUNCTOR_GRPC_TARGET``, ``JUNCTOR_TLS_CA_FILE`` over the current context of the config file. Use it in an
    ``async with`` block, or :meth:`close` it. Raises InvalidField for an address or token that cannot be used.
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
        http_client: httpx.AsyncClient | None = None,
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
        self._transport = AsyncTransport(Options(self.settings, timeout, RetryPolicy(max_retries)), http_client)
        self._grpc: AsyncGrpcInference | None = None
        self.workspaces = AsyncWorkspaces(self._transport, kinds.WORKSPACES)
        self.secrets = AsyncSecrets(self._transport, kinds.SECRETS)
        self.models = AsyncModels(self._transport)
        self.inference = AsyncInference(self._transport)
        self.virtual_models = self.inference.virtual_models
        self.keys = AsyncKeys(self._transport)
        self.members = AsyncMembers(self._transport)
        self.audit = AsyncAudit(self._transport)
        self.usage = AsyncUsage(self._transport)
        self.prices = AsyncPrices(self._transport)

    @property
    def grpc(self) -> AsyncGrpcInference:
        """The typed inference API over gRPC; connects at first use."""
        if self._grpc is None:
            from junctor.grpc_inference import AsyncGrpcInference

            self._grpc = AsyncGrpcInference(self.settings)
        return self._grpc

    async def send(self, request: Request[T]) -> T:
        """Send a request of your own building, with this client's address, credential, retries and errors."""
        return await self._transport.send(request)

    async def status(self) -> Json:
        """Return the state of every service, as ``GET /status`` has it."""
        return await self._transport.send(kinds.status())

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()
        if self._grpc is not None:
            await self._grpc.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
