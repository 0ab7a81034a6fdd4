"""Helpers for OpenAI's SDK and what is like it: base URLs, headers, ready-made clients. They send nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from junctor import trust, urls
from junctor.config import Settings
from junctor.errors import NotSupported
from junctor.records import Model, Provider

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI


class OpenAiHelpers:
    """Part of ``client.models``. ``workspace`` is the client's unless given."""

    _settings: Settings

    def get_openai_client(self, *, workspace: str | None = None, **options: Any) -> OpenAI:
        """Make an ``openai.OpenAI`` for a workspace; ``options`` go to its constructor.

        Raises NotSupported when OpenAI's SDK is not installed.
        """
        try:
            from openai import DefaultHttpxClient, OpenAI
        except ImportError:
            raise NotSupported(_MISSING) from None
        return OpenAI(**self._options(workspace, options, DefaultHttpxClient))

    def get_async_openai_client(self, *, workspace: str | None = None, **options: Any) -> AsyncOpenAI:
        """The same, as ``openai.AsyncOpenAI``."""
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient
        except ImportError:
            raise NotSupported(_MISSING) from None
        return AsyncOpenAI(**self._options(workspace, options, DefaultAsyncHttpxClient))

    def get_openai_route_base_url(self, *, workspace: str | None = None) -> str:
        """Return the base URL that routes by the body's ``model``: ``workspace/name`` or ``name``."""
        return urls.openai_route(self._settings.base_url, workspace or self._settings.workspace)

    def get_model_entity_route_openai_url(self, model: str | Model, *, workspace: str | None = None) -> str:
        """Return the base URL of one model, whatever ``model`` a body names."""
        name, found = (model, "") if isinstance(model, str) else (model.name, model.workspace)
        return urls.model_route(self._settings.base_url, workspace or found or self._settings.workspace, name)

    def get_provider_route_openai_url(self, provider: str | Provider, *, workspace: str | None = None) -> str:
        """Return the base URL of one provider; ``model`` is then the provider's own id."""
        name, found = (provider, "") if isinstance(provider, str) else (provider.name, provider.workspace)
        return urls.provider_route(self._settings.base_url, workspace or found or self._settings.workspace, name)

    def get_client_default_headers(self) -> dict[str, str]:
        """Return the headers that a client of another make must send: the caller's identity, if there is one."""
        return {name: value for name, value in urls.identity(self._settings).items() if name != "user-agent"}

    def _options(self, workspace: str | None, given: dict[str, Any], http_client: Any) -> dict[str, Any]:
        own: dict[str, Any] = {
            "base_url": self.get_openai_route_base_url(workspace=workspace),
            "api_key": self._settings.access_token or urls.NO_TOKEN,
        }
        if self._settings.ca_file and "http_client" not in given:
            own["http_client"] = http_client(verify=trust.context(self._settings.ca_file))
        return {**own, **given}


_MISSING = "OpenAI's SDK is not installed: pip install 'junctor[openai]'"
