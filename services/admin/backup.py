"""Backup of SQLite stores beside their running services, and restore into a folder that has none of them.

A backup is one state of all its stores: writes are held up everywhere for the moment in which every snapshot begins.
It is a folder with a file for each store and, written last, ``manifest.json``. Keys are not in it.
A restored store has a new epoch, so a Watch token of what came after the backup is refused, and nothing is skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1
STORES = ("access_control", "metering", "model_registry", "provider_registry")
_LOCK_SECONDS = 2.0
"""How long one lock is waited for while others are held; a server waits five times as long for its own."""
_TRIES = 10


class BackupFailed(Exception):
    """It could not be done; the text says why in one line. What was there before is as it was."""


@dataclass(frozen=True, slots=True)
class StoreCopy:
    """A store in a backup: its state, and what its file must be."""

    schema: str
    compatible_from: str
    epoch: str
    revision: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is. ``keys``: ids of the keys that its secrets need. ``not_included``: what to keep besides it."""

    format: int
    junctor: str
    taken_at: str
    stores: Mapping[str, StoreCopy]
    keys: Sequence[str]
    not_included: Mapping[str, str]


def back_up(
    files: Mapping[str, Path], folder: Path, not_included: Mapping[str, str], *, patience: float = _LOCK_SECONDS
) -> Manifest:
    """Copy one state of the stores ``files`` (path by store) into ``folder``, which is made, or is there and empty.

    ``patience``: seconds for which a lock is waited for at a time. A folder without a manifest is no backup: it was
    cut, and can be removed. Raises BackupFailed, OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise BackupFailed(f"{folder} is not empty: name a folder for this backup alone")
    with _snapshots(list(files.values()), patience) as snapshots:
        taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        stores = {
            store: _copy(snapshot, folder / f"{store}.sqlite") for store, snapshot in zip(files, snapshots, strict=True)
        }
        keys = next(
            (_keys(snapshot) for store, snapshot in zip(files, snapshots, strict=True) if store == STORES[-1]), []
        )
    manifest = Manifest(FORMAT, version("junctor"), taken_at, stores, keys, dict(not_included))
    unfinished = folder / f"{MANIFEST}.part"
    unfinished.write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    _to_disk(unfinished)
    unfinished.rename(folder / MANIFEST)
    _to_disk(folder)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read what a backup says of itself. Raises BackupFailed."""
    try:
        read: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        raise BackupFailed(f"{folder} is no whole backup: it has no {MANIFEST}") from None
    except ValueError:
        raise BackupFailed(f"{folder / MANIFEST} cannot be read") from None
    if read.get("format") != FORMAT:
        raise BackupFailed(f"{folder} was made by junctor {read.get('junctor')}, in a form this one does not know")
    return Manifest(**{**read, "stores": {name: StoreCopy(**copy) for name, copy in read["stores"].items()}})


def restore(folder: Path, manifest: Manifest, data_dir: Path) -> None:
    """Put the stores of a backup into ``data_dir``, which must have none of them; all of them or none.

    Raises BackupFailed, OSError.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {store: data_dir / f"{store}.sqlite" for store in manifest.stores}
    for there in (path for file in files.values() for path in (file, *_beside(file)) if path.exists()):
        raise BackupFailed(f"{there} is there, and nothing is overwritten: move it away, or name another --data-dir")
    with ExitStack() as unless_done:
        unfinished = {store: file.with_suffix(".sqlite.part") for store, file in files.items()}
        for store, file in unfinished.items():
            unless_done.callback(file.unlink, missing_ok=True)
            _restore_one(folder / f"{store}.sqlite", manifest.stores[store], file)
        for store, file in unfinished.items():
            file.rename(files[store])
        _to_disk(data_dir)


@contextmanager
def _snapshots(files: Sequence[Path], patience: float) -> Iterator[list[sqlite3.Connection]]:
    """Open every store so that all show the same moment: nobody writes while the snapshots begin."""
    for _ in range(_TRIES):
        with ExitStack() as opened:
            readers = [opened.enter_context(closing(_open(file, patience))) for file in files]
            try:
                with ExitStack() as writers:
                    for file in files:  # each lock ends when its connection is closed
                        writers.enter_context(closing(_open(file, patience))).execute("BEGIN IMMEDIATE")
                    for reader in readers:
                        reader.execute("BEGIN")
                        reader.execute("SELECT value FROM revision").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise BackupFailed(f"a store cannot be read: {error}") from error
                continue
            yield readers
            return
    raise BackupFailed("a store is being written to all the time; try again")


def _open(file: Path, patience: float) -> sqlite3.Connection:
    """Open a store that is there; never makes one."""
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=patience, isolation_level=None)


def _copy(snapshot: sqlite3.Connection, file: Path) -> StoreCopy:
    file.touch(mode=0o600)
    with closing(sqlite3.connect(file, isolation_level=None)) as target:
        snapshot.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
        _check(target, file)
        epoch, revision = target.execute("SELECT epoch, value FROM revision").fetchone()
        schema, oldest = target.execute("SELECT version_num, compatible_from FROM schema_version").fetchone()
    _to_disk(file)
    return StoreCopy(schema, oldest, epoch, revision, _digest(file))


def _restore_one(source: Path, expected: StoreCopy, file: Path) -> None:
    if not source.is_file() or _digest(source) != expected.sha256:
        raise BackupFailed(f"{source} is not what was backed up: it is damaged, or was changed")
    file.touch(mode=0o600)
    shutil.copyfile(source, file)
    with closing(sqlite3.connect(file, isolation_level=None)) as store:
        _check(store, source)
        store.execute("UPDATE revision SET epoch = ?", (secrets.token_hex(8),))
    _to_disk(file)


def _check(store: sqlite3.Connection, file: Path) -> None:
    (said,) = store.execute("PRAGMA integrity_check(1)").fetchone()
    if said != "ok":
        raise BackupFailed(f"{file} is damaged: {said}")


def _keys(snapshot: sqlite3.Connection) -> list[str]:
    return [key for (key,) in snapshot.execute("SELECT DISTINCT key_id FROM secret_values ORDER BY key_id")]


def _beside(file: Path) -> tuple[Path, Path]:
    return file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
