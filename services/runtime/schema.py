"""A store's schema: which revision is there, which one this release needs, and whether the two fit together.

Beside its revision a schema records the oldest code that may still use it. A release judges a schema that is newer
than itself by that record and not by Alembic's history, which it cannot know. The first release, 0.1.0, knew Alembic's
own table only; there it finds the same record, so it starts on every schema that it may use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

VERSION_TABLE = "schema_version"
"""Alembic's table since revision 0002, with one more column."""
FIRST = "0001"
_LOCK_WAIT = "5s"
"""How long PostgreSQL lets a migration wait for a table, while everybody else waits behind it."""

_MIGRATES = {"metering": "access_control"}
"""The service whose ``migrate`` brings a store up to date, where that has another name."""

_VERSION = sa.Table(
    VERSION_TABLE,
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), primary_key=True),
    sa.Column("compatible_from", sa.String(32)),
)
_OF_0_1_0 = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


class SchemaUnfit(Exception):
    """A schema that this release cannot use. The text goes on where the database was named: ``has …: run …``."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A revision, and the oldest code that may use it, by that code's own newest revision. Both empty: nothing."""

    revision: str = ""
    compatible_from: str = ""

    def is_older_than(self, needed: Schema) -> bool:
        """Tell whether migrations of the release that needs ``needed`` are still to be run."""
        return not self.revision or _number(self.revision) < _number(needed.revision)

    def refuses(self, code: Schema) -> bool:
        """Tell whether this schema is one that ``code`` must not use."""
        return bool(self.revision) and _number(self.compatible_from) > _number(code.revision)


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration found and what it left."""

    before: Schema
    after: Schema


def schema_of(connection: sa.Connection) -> Schema:
    """Read what the store's database says of itself."""
    inspector = sa.inspect(connection)
    for table in (_VERSION, _OF_0_1_0):
        row = connection.execute(sa.select(table)).first() if inspector.has_table(table.name) else None
        if row is not None:
            return Schema(row.version_num, getattr(row, "compatible_from", None) or FIRST)
    return Schema()


def needed_by(migrations: Path) -> Schema:
    """Return what the code with this Alembic folder needs: its newest revision."""
    script = ScriptDirectory(str(migrations)).get_revision("head")
    return Schema(script.revision, script.module.compatible_from)


def require(connection: sa.Connection, migrations: Path, schema: str) -> None:
    """Raise SchemaUnfit unless the code with this Alembic folder can use the schema as it is."""
    there, needed = schema_of(connection), needed_by(migrations)
    run = f"run: junctord {_MIGRATES.get(schema, schema).replace('_', '-')} migrate --database-url …"
    if not there.revision:
        raise SchemaUnfit(f"has no schema {schema} yet; {run}")
    if there.is_older_than(needed):
        raise SchemaUnfit(
            f"has schema {schema} at revision {there.revision}, and this release needs {needed.revision}; {run}"
        )
    _refuse_incompatible(there, needed)


def upgrade(connection: sa.Connection, migrations: Path) -> Migrated:
    """Run, within the connection's transaction, the migrations that are missing. Raises SchemaUnfit."""
    before, needed = schema_of(connection), needed_by(migrations)
    _refuse_incompatible(before, needed)
    if not before.is_older_than(needed):
        return Migrated(before, before)
    if connection.dialect.name == "postgresql":
        _lock(connection, before)
    _VERSION.create(connection, checkfirst=True)
    if before.revision and connection.execute(sa.select(_VERSION)).first() is None:  # 0.1.0 made it
        connection.execute(sa.insert(_VERSION).values(version_num=before.revision))
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    record(connection, needed.compatible_from)
    return Migrated(before, needed)


def record(connection: sa.Connection, compatible_from: str) -> None:
    """Write down the oldest code that may use the schema: code that is older refuses it at its start."""
    connection.execute(sa.update(_VERSION).values(compatible_from=compatible_from))
    # 0.1.0 accepts its own revision in this table, refuses any other, and changes nothing when it finds its own.
    _OF_0_1_0.create(connection, checkfirst=True)
    connection.execute(sa.delete(_OF_0_1_0))
    connection.execute(sa.insert(_OF_0_1_0).values(version_num=compatible_from))


def _lock(connection: sa.Connection, before: Schema) -> None:
    """Let running servers finish what they write, then be the only writer; fail rather than hold them up for long."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'")
    if before.revision:
        connection.exec_driver_sql("SELECT value FROM revision FOR UPDATE")


def _refuse_incompatible(there: Schema, code: Schema) -> None:
    if there.refuses(code):
        raise SchemaUnfit(
            f"is at revision {there.revision}, which only releases from revision {there.compatible_from} on may use; "
            f"this one is of revision {code.revision}: run a newer release of junctor"
        )


def _number(revision: str) -> int:
    if not revision.isdecimal():
        raise SchemaUnfit(f"has a schema of revision {revision!r}, which is none of junctor's")
    return int(revision)
