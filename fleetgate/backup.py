"""Backups: a state folder as it was at one moment, copied while everything goes on. Where it is put, it is served from.

What was acknowledged before the copying began is in it, and of each device all that it sent up to some message.
"""

import os
import shutil
import sqlite3
from asyncio import to_thread
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fleet.errors import StateError
from fleet.state import StateFolder
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.operations import Operation
from fleetgate.times import iso
from ingester.clock import now_us

_DATABASES = ("fleet.db", "mqtt.db")
_JOURNAL = Path("telemetry") / "journal.db"
_HISTORY = Path("telemetry") / "history"
_LINKS = Path("telemetry") / ".backup"
"""Where files of the history are held on to until they are copied. They never change."""
_OF_THE_PROCESS = {"lock", "server.json", "logs", "telemetry"}
_FILES = "SELECT path FROM sealed_files UNION SELECT path FROM rollup_files ORDER BY path"
_SLICE = 100
_APART = 2**40


async def back_up(core: Core, folder: Path, operation: Operation) -> dict[str, Any]:
    """Write a backup into `folder`, which is made; it has its name when all of it is on the disk. One at a time.

    Raises StateError when it can't be written.
    """
    at, state = now_us(), core.state
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        await to_thread(_begin, state, partial)
        async with core.store.changing:  # of the files that the journal's copy knows, none is deleted before it is held
            await to_thread(_copy_database, state.path / _JOURNAL, partial / _JOURNAL)
            await to_thread(_number_apart, partial / _JOURNAL)
            paths = await to_thread(_hold, state.path, partial / _JOURNAL)
        operation.total = len(paths)
        for start in range(0, len(paths), _SLICE):
            part = paths[start : start + _SLICE]
            await to_thread(_copy_files, state.path / _LINKS, partial / _HISTORY, part)
            operation.advance(start + len(part))
        size = await to_thread(_finish, partial, folder)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"backup {folder}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        await to_thread(shutil.rmtree, state.path / _LINKS, ignore_errors=True)
        await to_thread(shutil.rmtree, partial, ignore_errors=True)
    return {"folder": str(folder), "at": iso(at), "bytes": size}


def checked_folder(text: str) -> Path:
    """Where a backup can be written. Raises ArgumentError."""
    folder = Path(text)
    if not folder.is_absolute():
        raise ArgumentError(f"folder: {text[:80]!r} is not an absolute path")
    if folder.exists():
        raise ArgumentError(f"folder: {text} exists already: a backup makes a new one")
    if not folder.parent.is_dir():
        raise ArgumentError(f"folder: there is no folder {folder.parent}")
    return folder


def _begin(state: StateFolder, partial: Path) -> None:
    """All but telemetry: keys, token, registry, sessions, results of datasets."""
    for left in (partial, state.path / _LINKS):  # of one that was killed
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(mode=0o700)
    for path in sorted(state.path.iterdir()):
        if path.name in _DATABASES:
            _copy_database(path, partial / path.name)
        elif path.is_dir() and path.name not in _OF_THE_PROCESS:
            shutil.copytree(path, partial / path.name, copy_function=_copy_there)
        elif path.is_file() and path.name not in _OF_THE_PROCESS and not path.name.startswith(_DATABASES):
            _copy_there(path, partial / path.name)
    (partial / _HISTORY).mkdir(parents=True, mode=0o700)


def _copy_there(source: str | Path, target: str | Path) -> None:
    """What is replaced by a newer one meanwhile may be gone."""
    try:
        shutil.copy2(source, target)
    except FileNotFoundError:
        if Path(source).exists():
            raise


def _copy_database(source: Path, target: Path) -> None:
    """One moment of it, whoever writes meanwhile."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as there,
        closing(sqlite3.connect(target)) as here,
    ):
        there.backup(here)


def _number_apart(journal: Path) -> None:
    """What is served from the copy has ids beyond all that this one will ever give: a database that telemetry is moved
    to knows from which rows on it has nothing.
    """
    with closing(sqlite3.connect(journal)) as connection, connection:
        ((last,),) = connection.execute(
            "SELECT max((SELECT coalesce(max(id), 0) FROM journal), (SELECT max(until, moved) FROM sealed),"
            " (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'journal'))"
        )
        connection.execute("DELETE FROM sqlite_sequence WHERE name = 'journal'")
        connection.execute("INSERT INTO sqlite_sequence VALUES ('journal', ?)", (last + _APART,))


def _hold(state: Path, journal: Path) -> Sequence[str]:
    """Paths of the files that a journal knows, held on to."""
    with closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        paths = [path for (path,) in connection.execute(_FILES)]
    for path in paths:
        held = state / _LINKS / path
        held.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.link(state / _HISTORY / path, held)
    return paths


def _copy_files(held: Path, target: Path, paths: Iterable[str]) -> None:
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy2(held / path, target / path)


def _finish(partial: Path, folder: Path) -> int:
    """Give it its name; how many bytes it has."""
    size = 0
    for path in (*partial.rglob("*"), partial):
        if not path.is_dir():
            size += path.stat().st_size
        _sync(path)
    partial.rename(folder)
    _sync(folder.parent)
    return size


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
