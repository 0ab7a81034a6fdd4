"""One resource table: create, read, list, update and delete, each write with its revision and its change.

A row has the columns that are queried, a small JSON document of the fields that can be filtered, and the resource
itself as protobuf. The protobuf message is the domain object: a new field needs no migration.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import sqlalchemy as sa
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor import names
from junctor.errors import (
    FieldViolation,
    InvalidField,
    ResourceExists,
    ResourceNotFound,
    ResourceRef,
    StaleVersion,
)
from services.runtime import journal
from services.runtime.changes import METADATA, Feed
from services.runtime.filter_sql import compile_filter
from services.runtime.incarnations import Incarnations, Place, in_place, shown
from services.runtime.interceptors import current_call, sees
from services.runtime.paging import ListQuery, Page, order_clause, page_of
from services.runtime.tail import Change

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
REQUEST_ID_LIMIT = 64
REQUEST_KEEP_SECONDS = 24 * 3600
"""How long a ``request_id`` makes a create idempotent."""

_CHUNK = 500  # names in one query

M = TypeVar("M", bound=Message)


def _itself(resource: Any) -> Any:
    return resource


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def _never(_: Any) -> bool:
    return False


def new_id(prefix: str) -> str:
    """Draw an id: the prefix, a hyphen and 22 base58 characters (128 bits)."""
    return f"{prefix}-{''.join(secrets.choice(_BASE58) for _ in range(22))}"


@dataclass(frozen=True, slots=True)
class Kind(Generic[M]):
    """What one kind of resource is called, and how its rows are made."""

    name: str
    """Kind in the change log and in ``ResourceInfo``: ``model``, ``provider`` …"""
    table: str
    message: type[M]
    id_prefix: str
    fields: Callable[[M], dict[str, str | None]]
    """The filterable fields that are not columns of their own."""
    missing: Callable[[str, str], str]
    """Text for a resource (workspace, name) that does not exist."""
    exists: Callable[[str, str], str]
    """Text for a name that is taken."""
    filterable: frozenset[str] = frozenset()
    presence: frozenset[str] = frozenset()
    """Those of them that a filter may ask ``true`` or ``false`` of: is there a value?"""
    sortable: frozenset[str] = frozenset({"name", "created_at", "updated_at"})
    default_order: str = "created_at"
    default_page_size: int = 100
    facts: Callable[[M], Any] = _itself
    """The message that says what a resource is called and when it changed: itself, or one within it."""
    name_field: str = "name"
    is_name: Callable[[str], bool] = names.is_name
    """Tells what may be a name at all: nothing else is looked for."""
    created_fields: tuple[str, str] = ("created_at", "created_by")
    lies_in: str = "workspace"
    """The column that says in which workspace a row lies; for workspaces it is their own name."""
    extra: Callable[[], Sequence[sa.Column[Any]]] = tuple
    """Further columns of the table,"""
    columns: Callable[[M], dict[str, Any]] = _nothing
    """and what is in them."""
    hidden: frozenset[str] = frozenset()
    """Fields that may hold credentials: the record of writes has their names only."""
    volatile: frozenset[str] = frozenset()
    """Fields that junctor itself changes all the time: alone they are no news for the record of writes."""
    has_ended: Callable[[M], bool] = _never
    """Tells a resource that is kept but over: the update that makes it so is recorded as its end."""


REQUESTS = sa.Table(
    "requests",
    METADATA,
    sa.Column("request_id", sa.String, primary_key=True),
    sa.Column("kind", sa.String),
    sa.Column("digest", sa.String),
    sa.Column("body", sa.LargeBinary),
    sa.Column("at", sa.BigInteger),
)


def resource_table(name: str, *extra: sa.Column[Any]) -> sa.Table:
    """Describe one resource table; :func:`services.runtime.migrations.create_resource_table` makes it."""
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("workspace", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("id", sa.String),
        sa.Column("created_at", sa.BigInteger),
        sa.Column("updated_at", sa.BigInteger),
        sa.Column("revision", sa.BigInteger),
        sa.Column("fields", sa.JSON),
        sa.Column("body", sa.LargeBinary),
        sa.Column("workspace_id", sa.String),  # not in the table of workspaces themselves
        *extra,
    )


class ResourceStore(Generic[M]):
    """The rows of one kind. Methods without ``tx`` run in a transaction of their own."""

    def __init__(self, feed: Feed, kind: Kind[M], *, incarnations: Incarnations | None = None) -> None:
        """``incarnations`` knows which rows lie in a workspace that is gone; None: all rows count."""
        self.feed = feed
        self.kind = kind
        self.table = resource_table(kind.table, *kind.extra())
        self._subject = journal.Subject(kind.name, kind.hidden, kind.volatile)
        self.incarnations = incarnations

    def decode(self, body: bytes) -> M:
        """Parse a stored resource."""
        return self.kind.message.FromString(body)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction, alone in the store until it ends; watchers are woken when it has committed."""
        try:
            async with self.feed.database.write() as tx:
                await self.feed.lock(tx)
                yield tx
        except asyncio.CancelledError:
            self.feed.notify()  # a caller may leave while the commit is under way
            raise
        self.feed.committed(tx)

    # -- reading

    async def get(self, workspace: str, name: str) -> M:
        """Return one resource. Raises ResourceNotFound."""
        async with self.feed.database.read() as tx:
            return await self.fetch(tx, workspace, name)

    async def find(self, tx: AsyncConnection, workspace: str, name: str) -> M | None:
        """Return one resource as ``tx`` sees it, or None."""
        table = self.table
        statement = sa.select(table.c.body).where(table.c.workspace == workspace, table.c.name == name)
        body = (await tx.execute(statement.where(*self._shown()))).scalar()
        return None if body is None else self.decode(body)

    async def find_all(self, tx: AsyncConnection, workspace: str, wanted: Sequence[str]) -> dict[str, M]:
        """Return those resources of one workspace that exist, by name."""
        table, found = self.table, {}
        for start in range(0, len(wanted), _CHUNK):
            these = table.c.name.in_(wanted[start : start + _CHUNK])
            statement = sa.select(table.c.name, table.c.body).where(table.c.workspace == workspace, these)
            rows = await tx.execute(statement.where(*self._shown()))
            found.update({row.name: self.decode(row.body) for row in rows})
        return found

    async def fetch(self, tx: AsyncConnection, workspace: str, name: str) -> M:
        """Return one resource as ``tx`` sees it. Raises ResourceNotFound, also for what is not there for the caller."""
        storable = self.kind.is_name(name) and "\0" not in workspace  # PostgreSQL takes no NUL
        there = storable and sees(name if self.kind.lies_in == "name" else workspace)
        found = await self.find(tx, workspace, name) if there else None
        if found is None:
            raise self.not_found(workspace, name)
        return found

    async def all(self, tx: AsyncConnection) -> list[M]:
        """Return every resource as ``tx`` sees it, oldest first."""
        order = (self.table.c.created_at, self.table.c.name)
        statement = sa.select(self.table.c.body).where(*self._shown()).order_by(*order)
        return [self.decode(row.body) for row in await tx.execute(statement)]

    async def list(self, query: ListQuery, *conditions: sa.ColumnElement[bool]) -> Page[M]:
        """Return one page of what meets the conditions. Raises InvalidField or MalformedRequest for a bad query.

        Whatever the query says, nothing of a workspace that the running call may not see.
        """
        table, kind = self.table, self.kind
        chosen = compile_filter(table, query.filter, fields=kind.filterable, kind=kind.name, presence=kind.presence)
        where = sa.and_(chosen, *self._shown(), *conditions)
        if (seen := seen_workspaces()) is not None:
            where = sa.and_(where, table.c[kind.lies_in].in_(sorted(seen)))
        if query.workspace not in ("", names.ALL_WORKSPACES) and not query.filters_workspace:
            where = sa.and_(where, table.c.workspace == query.workspace)
        page = page_of(query, default_size=kind.default_page_size)
        order = order_clause(table, query.order_by or kind.default_order, kind.sortable)
        rows = sa.select(table.c.body).where(where).order_by(*order).offset(page.offset).limit(page.size)
        async with self.feed.database.read(bulk=True) as tx:
            total = (await tx.execute(sa.select(sa.func.count()).select_from(table).where(where))).scalar_one()
            found = [self.decode(row.body) for row in await tx.execute(rows)]
        return Page(found, page.next_token(total), total)

    # -- writing

    async def create(
        self,
        resource: M,
        *,
        request_id: str = "",
        check: Callable[[AsyncConnection], Awaitable[None]] | None = None,
        workspace_id: str = "",
    ) -> M:
        """Create a resource. Raises ResourceExists, WorkspaceMissing and what ``check`` raises.

        ``check`` looks at the rest of the store in the same transaction. The same ``request_id`` again returns the
        first answer; with another resource it raises InvalidField. ``workspace_id`` as in :meth:`claim`.
        """
        digest = hashlib.sha256(_wire(resource)).hexdigest()
        async with self.transaction() as tx:
            if request_id and (earlier := await self._replay(tx, request_id, digest)) is not None:
                return earlier
            if check is not None:
                await check(tx)
            created = await self.insert(tx, resource, workspace_id=workspace_id)
            if request_id:
                await self._remember(tx, request_id, digest, created)
            return created

    async def insert(self, tx: AsyncConnection, resource: M, *, workspace_id: str = "") -> M:
        """Create a resource within ``tx``. Raises ResourceExists, WorkspaceMissing."""
        workspace, name = self.place_of(resource)
        if await self.claim(tx, workspace, [name], workspace_id):
            raise self.already_exists(workspace, name)
        return (await self.insert_all(tx, [resource], workspace_id=workspace_id))[0]

    async def claim(
        self, tx: AsyncConnection, workspace: str, wanted: Sequence[str], workspace_id: str
    ) -> dict[str, M]:
        """Return those resources that exist, by name; what an incarnation that is gone left there is removed.

        ``workspace_id``: as the caller was told it, empty if it was not. Raises WorkspaceMissing if it is gone by now.
        """
        table, found, left = self.table, dict[str, M](), list[M]()
        its_id = sa.null() if self.incarnations is None else table.c.workspace_id
        for start in range(0, len(wanted), _CHUNK):
            these = table.c.name.in_(wanted[start : start + _CHUNK])
            statement = sa.select(table.c.name, table.c.body, its_id.label("of")).where(table.c.workspace == workspace)
            for row in await tx.execute(statement.where(these)):
                if self._is_left(row.of, workspace_id):
                    left.append(self.decode(row.body))
                else:
                    found[row.name] = self.decode(row.body)
        await self._confirm(workspace, workspace_id, doubtful=bool(left))
        for resource in left:
            await self.remove(tx, resource)
        return found

    def _is_left(self, its_id: str | None, workspace_id: str) -> bool:
        """Tell whether a row with the first id is of another incarnation than a write with the second one."""
        if its_id is None or self.incarnations is None:
            return False
        return its_id in self.incarnations.gone_ids or workspace_id not in ("", its_id)

    async def _confirm(self, workspace: str, workspace_id: str, *, doubtful: bool) -> None:
        """Ask again for the id that a write has if something else is known: either may be of yesterday."""
        if self.incarnations is None or not workspace_id:
            return
        if doubtful or self.incarnations.id_of(workspace) != workspace_id:
            await self.incarnations.confirm(workspace, workspace_id)

    async def insert_all(self, tx: AsyncConnection, resources: Sequence[M], *, workspace_id: str = "") -> Sequence[M]:
        """Create resources of one workspace, whose names are known to be free, within ``tx``."""
        created = [self._copy(resource) for resource in resources]
        now = _now()
        for resource in created:
            facts, (at, by) = self.kind.facts(resource), self.kind.created_fields
            if not _text(facts, "id"):
                _set(facts, "id", new_id(self.kind.id_prefix))
            _stamp(facts, at, now)
            _set(facts, by, journal.principal())
        first = {"created_at": now} | ({"workspace_id": workspace_id} if workspace_id else {})
        rows = [{**first, **row} for row in await self._seal(tx, created, now, before=[None] * len(created))]
        if rows:
            await tx.execute(sa.insert(self.table), rows)
        return created

    async def update(self, workspace: str, name: str, change: Callable[[M], None], *, resource_version: str = "") -> M:
        """Apply ``change`` to a resource. Raises ResourceNotFound, StaleVersion and what ``change`` raises."""
        async with self.transaction() as tx:
            current = await self.fetch(tx, workspace, name)
            self.check_version(current, resource_version)
            return await self.put(tx, current, change)

    async def put(self, tx: AsyncConnection, current: M, change: Callable[[M], None]) -> M:
        """Apply ``change`` to ``current`` within ``tx``; writes nothing when it changes nothing."""
        return (await self.put_all(tx, [current], change))[0]

    async def put_all(self, tx: AsyncConnection, current: Sequence[M], change: Callable[[M], None]) -> Sequence[M]:
        """Apply ``change`` to each of ``current`` within ``tx``; writes those that it changes."""
        new = [self._copy(resource) for resource in current]
        for resource in new:
            change(resource)
        both = [(resource, old) for resource, old in zip(new, current, strict=True) if resource != old]
        rows = await self._seal(tx, [resource for resource, _ in both], _now(), before=[old for _, old in both])
        if rows:
            table = self.table
            this = sa.and_(table.c.workspace == sa.bindparam("of_workspace"), table.c.name == sa.bindparam("of_name"))
            keys = [{"of_workspace": row.pop("workspace"), "of_name": row.pop("name")} for row in rows]
            written: dict[str, Any] = {column: sa.bindparam(column) for column in rows[0]}
            values = [{**key, **row} for key, row in zip(keys, rows, strict=True)]
            await tx.execute(sa.update(table).where(this).values(written), values)
        return new

    async def delete(self, workspace: str, name: str, *, resource_version: str = "") -> int:
        """Delete a resource; returns the revision of the deletion. Raises ResourceNotFound, StaleVersion."""
        async with self.transaction() as tx:
            current = await self.fetch(tx, workspace, name)
            self.check_version(current, resource_version)
            return await self.remove(tx, current)

    async def remove(self, tx: AsyncConnection, current: M) -> int:
        """Delete ``current`` within ``tx``; returns the revision."""
        return await self.remove_all(tx, [current])

    async def remove_all(self, tx: AsyncConnection, current: Sequence[M]) -> int:
        """Delete one or more resources within ``tx``; returns the last revision."""
        table = self.table
        revisions = await self.feed.next_revisions(tx, len(current))
        places = [self.place_of(gone) for gone in current]
        keys = [{"of_workspace": workspace, "of_name": name} for workspace, name in places]
        this = sa.and_(table.c.workspace == sa.bindparam("of_workspace"), table.c.name == sa.bindparam("of_name"))
        await tx.execute(sa.delete(table).where(this), keys)
        changes = [Change(n, True, _wire(gone)) for n, gone in zip(revisions, current, strict=True)]
        await self.feed.append(tx, self.kind.name, changes)
        await self._record(tx, [self._write(n, gone, None) for n, gone in zip(revisions, current, strict=True)])
        return revisions[-1]

    async def drop_places(self, tx: AsyncConnection, gone: frozenset[Place]) -> None:
        """Delete what lies in workspaces that are known to be deleted, within ``tx``."""
        for place in sorted(gone, key=str):
            there = sa.select(self.table.c.body).where(in_place(self.table, place))
            for row in (await tx.execute(there)).all():
                await self.remove(tx, self.decode(row.body))

    def _shown(self) -> Sequence[sa.ColumnElement[bool]]:
        return shown(self.table, self.incarnations)

    # -- errors

    def not_found(self, workspace: str, name: str) -> ResourceNotFound:
        """Build the error for a resource that does not exist."""
        ref = ResourceRef(self.kind.name, names.join(workspace, name) if workspace else name)
        return ResourceNotFound(self.kind.missing(workspace, name), resource=ref)

    def already_exists(self, workspace: str, name: str) -> ResourceExists:
        """Build the error for a name that is taken."""
        ref = ResourceRef(self.kind.name, names.join(workspace, name) if workspace else name)
        return ResourceExists(self.kind.exists(workspace, name), resource=ref)

    def check_version(self, current: M, resource_version: str) -> None:
        """Raise StaleVersion if the caller decided on an older state than ``current``."""
        newest = _text(self.kind.facts(current), "resource_version")
        if resource_version and resource_version != newest:
            raise StaleVersion(
                f"resource_version {resource_version} is not the newest ({newest}); read it again",
                metadata={"resource_version": newest},
            )

    # -- rows

    async def _seal(
        self, tx: AsyncConnection, resources: Sequence[M], now: int, *, before: Sequence[M | None]
    ) -> Sequence[dict[str, Any]]:
        """Give each resource its revision, log and record it, and return the rows to write."""
        if not resources:
            return []
        revisions = await self.feed.next_revisions(tx, len(resources))
        for resource, revision in zip(resources, revisions, strict=True):
            facts = self.kind.facts(resource)
            _stamp(facts, "updated_at", now)
            if current_call() is not None:  # what junctor does itself is nobody's change
                _set(facts, "updated_by", journal.principal())
            _set(facts, "resource_version", str(revision))
        rows = [self._row(resource, now, n) for n, resource in zip(revisions, resources, strict=True)]
        await self.feed.append(tx, self.kind.name, [Change(row["revision"], False, row["body"]) for row in rows])
        writes = zip(revisions, before, resources, strict=True)
        await self._record(tx, [self._write(*write) for write in writes])
        return rows

    def _row(self, resource: M, now: int, revision: int) -> dict[str, Any]:
        workspace, name = self.place_of(resource)
        return {
            "workspace": workspace,
            "name": name,
            "id": _text(self.kind.facts(resource), "id") or f"{self.kind.id_prefix}-{revision}",
            "updated_at": now,
            "revision": revision,
            "fields": self.kind.fields(resource),
            "body": _wire(resource),
            **self.kind.columns(resource),
        }

    def place_of(self, resource: M) -> tuple[str, str]:
        """Return the workspace and the name of a resource."""
        facts = self.kind.facts(resource)
        return _text(facts, "workspace"), _text(facts, self.kind.name_field)

    def workspace_of(self, resource: M) -> str:
        """Return the workspace that a resource lies in; a workspace lies in itself."""
        workspace, name = self.place_of(resource)
        return name if self.kind.lies_in == "name" else workspace

    async def _record(self, tx: AsyncConnection, writes: Sequence[journal.Write]) -> None:
        await journal.record(tx, self.feed, self._subject, writes)

    def _write(self, revision: int, before: M | None, after: M | None) -> journal.Write:
        kept = after if after is not None else before
        assert kept is not None
        ended, facts = self.kind.has_ended, self.kind.facts
        ends = before is not None and after is not None and ended(after) and not ended(before)
        old, new = (None if resource is None else facts(resource) for resource in (before, after))
        return journal.Write(revision, self.workspace_of(kept), self.place_of(kept)[1], old, new, ends)

    def _copy(self, resource: M) -> M:
        copied = self.kind.message()
        copied.CopyFrom(resource)
        return copied

    async def _replay(self, tx: AsyncConnection, request_id: str, *digests: str) -> M | None:
        """Return the first answer to a create that has one of these digests. Raises InvalidField for another one."""
        _check_request_id(request_id)
        row = (await tx.execute(sa.select(REQUESTS).where(REQUESTS.c.request_id == _own(request_id)))).one_or_none()
        if row is None:
            return None
        if row.kind != self.kind.name or row.digest not in digests:
            raise InvalidField.of(FieldViolation("request_id", "was used before for another request"))
        return self.decode(row.body)

    async def _remember(self, tx: AsyncConnection, request_id: str, digest: str, created: M) -> None:
        now = _now()
        await tx.execute(sa.delete(REQUESTS).where(REQUESTS.c.at < now - REQUEST_KEEP_SECONDS * 1_000_000))
        values: Mapping[str, Any] = {
            "request_id": _own(request_id),
            "kind": self.kind.name,
            "digest": digest,
            "body": _wire(created),
            "at": now,
        }
        await tx.execute(sa.insert(REQUESTS).values(values))


def _check_request_id(request_id: str) -> None:
    if len(request_id) > REQUEST_ID_LIMIT:
        raise InvalidField.of(FieldViolation("request_id", f"must be at most {REQUEST_ID_LIMIT} characters"))
    if "\0" in request_id:
        raise InvalidField.of(FieldViolation("request_id", "must not contain NUL"))


def _own(request_id: str) -> str:
    """Return a caller's request id as it is kept: nobody finds, or takes, another caller's."""
    by = journal.principal()
    return f"{by} {request_id}" if by else request_id


def _now() -> int:
    return time.time_ns() // 1000


def _wire(resource: Message) -> bytes:
    return resource.SerializeToString(deterministic=True)


def _text(resource: Message, name: str) -> str:
    return str(getattr(resource, name, ""))  # a workspace has no workspace


def _set(resource: Message, name: str, value: str) -> None:
    if name in _fields(resource):
        resource.ClearField(name)
        if value:
            setattr(resource, name, value)


def _stamp(resource: Message, name: str, microseconds: int) -> None:
    if name in _fields(resource):
        stamp: Timestamp = getattr(resource, name)
        stamp.FromMicroseconds(microseconds)


def _fields(resource: Message) -> Mapping[str, Any]:
    descriptor: Any = resource.DESCRIPTOR
    return cast(Mapping[str, Any], descriptor.fields_by_name)


def seen_workspaces() -> frozenset[str] | None:
    """Return the workspaces of which the running call may see anything; None: every one."""
    return getattr(current_call(), "workspaces", None)
