"""The calls that every resource has in the same form: list, create, read, delete.

A resource's own module says which RPC each is, by an :class:`Rpc` that builds the request, and adds what is its own
(PATCH, PUT).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from gateway_http import queries
from gateway_http.endpoint import Answer, Call
from gateway_http.queries import Listing
from gateway_http.rendering import render
from gateway_http.resources import Key, Resource
from gateway_http.translate import BadBody, Reader
from junctor.channel import Peer
from junctor.errors import InvalidArgument, JunctorError

GivenT = TypeVar("GivenT")

VALIDATE = "/-/validate"
"""Path below a collection. Not a parameter of its POST: a server that does not know it must not create anything."""

_BATCH = 50
"""Items rendered in one go, some 2 ms."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which resource a call is about; ``resource_version`` is empty unless the caller insists on one."""

    workspace: str
    name: str
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Rpc(Generic[GivenT]):
    """A stub's method and how to build its request."""

    method: Any
    request: Callable[[GivenT], Message]


@dataclass(frozen=True, slots=True)
class Collection:
    """One resource over its peer. Methods named like RPCs are handlers of ``gateway_http.endpoint``."""

    resource: Resource
    peer: Peer
    get_rpc: Rpc[Target]
    list_rpc: Rpc[Listing]
    items: str
    """Field of the List response that has the page."""
    create_rpc: Rpc[Any]
    delete_rpc: Rpc[Target]

    async def list(self, call: Call) -> Answer:
        """``GET`` of the collection: one page in its envelope."""
        listing = queries.read(self.resource, call.path.get("workspace", ""), call.query)
        page: Any = await self.call(self.list_rpc, listing)
        data: list[dict[str, Any]] = []
        for count, item in enumerate(getattr(page, self.items), 1):
            data.append(render(self.resource, item, sparse=self.resource.sparse_lists))
            if count % _BATCH == 0:
                await asyncio.sleep(0)  # streams of inference share this loop, and a page may be long
        return Answer(200, _envelope(self.resource, listing, data, page.total_size))

    async def get(self, call: Call) -> Answer:
        """``GET`` of one."""
        return Answer(200, render(self.resource, await self.call(self.get_rpc, target(call))))

    async def create(self, call: Call) -> Answer:
        """``POST`` to the collection."""
        reader, request = await self._to_create(call)
        return self.written(await self.write(reader, self.create_rpc.method, request), 201)

    async def validate(self, call: Call) -> Answer:
        """``POST`` to :data:`VALIDATE`: check a create and answer it in full; nothing is written."""
        reader, request = await self._to_create(call)
        request.validate_only = True
        checked = await self.write(reader, self.create_rpc.method, request)
        return Answer(200, render(self.resource, checked))

    async def _to_create(self, call: Call) -> tuple[Reader, Any]:
        reader = Reader(await call.content())
        message = reader.read(self.resource.message(), self.resource.settable)
        if "workspace" in call.path:
            setattr(message, "workspace", call.path["workspace"])  # noqa: B010 - Message has no such attribute
        return reader, self.create_rpc.request(message)

    async def delete(self, call: Call) -> Answer:
        """``DELETE`` of one: 204; the query parameter ``resource_version`` may insist on the newest."""
        gone: Any = await self.call(self.delete_rpc, target(call))
        return Answer(204, None, self.revision(gone.revision))

    async def call(self, rpc: Rpc[GivenT], given: GivenT) -> Any:
        """Make a call of this resource's service."""
        return await self.peer.call(rpc.method, rpc.request(given))

    async def write(self, reader: Reader, method: Any, request: Any) -> Any:
        """Make the write that a body asks for. Raises all its bad fields at once, the reader's and the service's."""
        try:
            reader.done()
        except BadBody as found:
            raise await self._with_the_services(found, method, request) from None
        return await self.peer.call(method, request)

    async def _with_the_services(self, found: BadBody, method: Any, request: Any) -> JunctorError:
        request.validate_only = True
        try:
            await self.peer.call(method, request)
        except InvalidArgument as also:
            return found.beside(also)
        except JunctorError:  # whatever it is, the body is bad
            pass
        return found

    def written(self, message: Any, status: int = 200) -> Answer:
        """Answer a write with the resource as it is now."""
        return Answer(status, render(self.resource, message), self.revision(message.resource_version))

    def revision(self, number: str) -> Mapping[str, str]:
        """Return the header by which a later call can wait for this write."""
        return {"x-junctor-revision": f"{self.resource.store}:{number}"}

    def change(self, call: Call, reader: Reader, keys: Iterable[Key]) -> Any:
        """Read ``keys`` of a body into a message that names the resource of the path."""
        message: Any = reader.read(self.resource.message(), (*keys, _VERSION))
        message.name = call.path["name"]
        if "workspace" in call.path:
            message.workspace = call.path["workspace"]
        return message


_VERSION = Key("resource_version")


def target(call: Call) -> Target:
    """Return what the path names."""
    return Target(call.path.get("workspace", ""), call.path["name"], call.parameter("resource_version"))


def partial_keys(resource: Resource, content: Mapping[str, Any], *, clears: bool = False) -> list[Key]:
    """Return the keys that a partial update writes: those given, but null only where null clears.

    The name is in the path; one in the body is ignored. ``clears``: null clears every key (``?null=clear``).
    """
    return [
        replace(key, required=False)
        for key in resource.settable
        if key.name != "name"
        and key.name in content
        and (clears or content[key.name] is not None or key.name in resource.clearable)
    ]


def _envelope(resource: Resource, listing: Listing, data: list[dict[str, Any]], total: int) -> dict[str, Any]:
    envelope: dict[str, Any] = {
        "data": data,
        "pagination": {
            "page": listing.page,
            "page_size": listing.page_size,
            "current_page_size": len(data),
            "total_pages": -(-total // listing.page_size),
            "total_results": total,
        },
    }
    if resource.echoes_sort:
        envelope["sort"] = listing.sort
    if resource.echoes_filter:
        envelope["filter"] = None
    return envelope
