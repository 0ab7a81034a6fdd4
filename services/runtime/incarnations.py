"""Which incarnation of its workspace a row lies in: one that is deleted and made again has a new id, and is empty.

Rows keep the id that their workspace had when they were made; NULL: it was not known then, or to the release that made
them. A row with another id than its workspace has now lies in one that is gone: it is not shown, and gets dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

Place = tuple[str, str | None]
"""A workspace and its id, as rows have them."""


class Incarnations(Protocol):
    """What a store asks about workspaces."""

    @property
    def gone_ids(self) -> frozenset[str]:
        """Ids that no workspace has any more, and rows may still have."""

    def id_of(self, workspace: str) -> str | None:
        """Return the id that the workspace has as far as is known."""

    async def confirm(self, workspace: str, workspace_id: str) -> None:
        """Raise WorkspaceMissing unless the workspace has this id now, and PeerUnavailable if that cannot be told."""


def shown(table: sa.Table, incarnations: Incarnations | None) -> Sequence[sa.ColumnElement[bool]]:
    """Return the conditions for rows that are not of an incarnation known to be gone: mostly none."""
    if incarnations is None or not incarnations.gone_ids:
        return ()
    return (sa.or_(table.c.workspace_id.is_(None), table.c.workspace_id.not_in(incarnations.gone_ids)),)


def in_place(table: sa.Table, place: Place) -> sa.ColumnElement[bool]:
    """Return the condition for rows of one place; ``IS NULL`` for an unknown id."""
    workspace, workspace_id = place
    return sa.and_(table.c.workspace == workspace, table.c.workspace_id.is_not_distinct_from(workspace_id))


async def places_of(tx: AsyncConnection, *tables: sa.Table) -> set[Place]:
    """Return where there are rows."""
    found: set[Place] = set()
    for table in tables:
        rows = await tx.execute(sa.select(table.c.workspace, table.c.workspace_id).distinct())
        found.update((row.workspace, row.workspace_id) for row in rows)
    return found


async def adopt(tx: AsyncConnection, ids: Mapping[str, str], *tables: sa.Table) -> None:
    """Give rows with no id the one of their workspace."""
    for table in tables:
        for workspace, workspace_id in ids.items():
            of_it = in_place(table, (workspace, None))
            await tx.execute(sa.update(table).where(of_it).values(workspace_id=workspace_id))
