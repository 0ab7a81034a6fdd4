"""The public REST API as ``junctor up`` uses it: the calls that register providers and secrets, no more."""

from __future__ import annotations

from typing import Any

import httpx

Json = dict[str, Any]

PAGE_SIZE = 1000


class EdgeRefused(Exception):
    """The edge did not do what was asked; the text is fit to be printed and holds no secret."""


class Edge:
    """Calls over ``client``, whose base URL is the edge's and whose headers carry its credential if any.

    Every method raises :class:`EdgeRefused` for an answer that it has no result for, or for none.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def providers(self, workspace: str) -> list[Json]:
        """List all providers of a workspace."""
        found: list[Json] = []
        page, pages = 1, 1
        while page <= pages:
            path = f"{_providers(workspace)}?page={page}&page_size={PAGE_SIZE}"
            body = (await self._call("GET", path, 200)).json()
            found += body["data"]
            page, pages = page + 1, body["pagination"]["total_pages"]
        return found

    async def provider(self, workspace: str, name: str) -> Json | None:
        """Get a provider; None if there is none."""
        return await self._get(f"{_providers(workspace)}/{name}")

    async def create_provider(self, workspace: str, body: Json) -> bool:
        """Create a provider; False if the name is taken."""
        return (await self._call("POST", _providers(workspace), 201, 409, body=body)).status_code == 201

    async def replace_provider(self, workspace: str, name: str, body: Json) -> None:
        """Replace a provider as a whole."""
        await self._call("PUT", f"{_providers(workspace)}/{name}", 200, body=body)

    async def secret(self, workspace: str, name: str) -> Json | None:
        """Get a secret without its value; None if there is none."""
        return await self._get(f"{_secrets(workspace)}/{name}")

    async def create_secret(self, workspace: str, body: Json) -> bool:
        """Create a secret; False if the name is taken."""
        return (await self._call("POST", _secrets(workspace), 201, 409, body=body)).status_code == 201

    async def update_secret(self, workspace: str, name: str, body: Json) -> None:
        """Change a secret's value or description."""
        await self._call("PATCH", f"{_secrets(workspace)}/{name}", 200, body=body)

    async def _get(self, path: str) -> Json | None:
        answer = await self._call("GET", path, 200, 404)
        found: Json | None = answer.json() if answer.status_code == 200 else None
        return found

    async def _call(self, method: str, path: str, *expected: int, body: Json | None = None) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, json=body)
        except httpx.HTTPError:
            raise EdgeRefused("the edge did not answer") from None
        if answer.status_code not in expected:
            # The text of a refusal may quote what was sent, a key among it.
            raise EdgeRefused(f"the edge answered {answer.status_code} to {method} {path}")
        return answer


def _providers(workspace: str) -> str:
    return f"/apis/models/v2/workspaces/{workspace}/providers"


def _secrets(workspace: str) -> str:
    return f"/apis/secrets/v2/workspaces/{workspace}/secrets"
