"""Backups: a state folder as it was at one moment, in one file, made while everything goes on; and back from it.

What was acknowledged before the copying began is in it, and of each device all that it sent up to some message.
"""

import json
import os
import shutil
import sqlite3
from asyncio import to_thread
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

from fleet.errors import StateError
from fleet.files import write_private
from fleet.state import RESTORED, StateFolder
from fleetgate import __version__
from fleetgate.archive import Manifest, Progress, manifest_of, pack, sync, unpack
from fleetgate.core import Core
from fleetgate.errors import ArgumentError
from fleetgate.operations import Operation
from fleetgate.times import iso
from ingester.sqlite.opening import read_only

_DATABASES = ("fleet.db", "mqtt.db")
_JOURNAL = Path("telemetry") / "journal.db"
_HISTORY = Path("telemetry") / "history"
_LINKS = Path("telemetry") / ".backup"
"""Where files of the history are held on to until they are copied. They never change."""
_OF_THE_PROCESS = {"lock", "server.json", "logs", "telemetry"}
_FILES = "SELECT path FROM sealed_files UNION SELECT path FROM rollup_files ORDER BY path"
_SLICE = 100
_APART = 2**40


async def back_up(core: Core, file: Path, passphrase: bytes | None, operation: Operation) -> dict[str, Any]:
    """Write a backup; it has its name when all of it is on the disk, and verified. One at a time.

    It is gathered in a folder beside it, which stays when that is interrupted: the next try goes on from there. Raises
    StateError when it can't be written.
    """
    at, state = core.clocks.wall(), core.state
    partial, stopping = file.with_name(f"{file.name}.partial"), Event()
    try:
        await to_thread(_begin, state, partial)
        if not core.settings.registry.url.get_secret_value():
            await to_thread(_take_out, partial / state.fleet_db.name, operation.begun.id)
        async with core.store.changing:  # of the files that the journal's copy knows, none is deleted before it is held
            await to_thread(_copy_database, state.path / _JOURNAL, partial / _JOURNAL)
            await to_thread(_number_apart, partial / _JOURNAL)
            paths = await to_thread(_hold, state.path, partial / _JOURNAL)
        operation.total = len(paths)
        await to_thread(_drop_others, partial / _HISTORY, paths)
        for start in range(0, len(paths), _SLICE):
            part = paths[start : start + _SLICE]
            await to_thread(_copy_files, state.path / _LINKS, partial / _HISTORY, part)
            operation.advance(start + len(part))

        def going_on() -> None:
            if stopping.is_set():
                raise StateError(f"backup {file}: fleetgate stops")

        def progress(done: int, total: int) -> None:
            going_on()
            operation.total = total
            operation.advance(done)

        manifest = await to_thread(manifest_of, partial, at, __version__, going_on)
        size = await to_thread(pack, partial, file, manifest, passphrase, progress)
        await to_thread(shutil.rmtree, partial)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"backup {file}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        stopping.set()  # a thread that is still at it
        await to_thread(shutil.rmtree, state.path / _LINKS, ignore_errors=True)
    return {"file": str(file), "at": iso(at), "bytes": size, "encrypted": passphrase is not None}


def restore(file: Path, folder: Path, passphrase: bytes | None, progress: Progress) -> Manifest:
    """Write what a backup has into a state folder that is not there yet, or empty: all of it or nothing.

    What an interrupted try has left beside it is gone on from. Raises ArgumentError, StateError.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError(f"{folder}: there is something already: a backup is restored into an empty state")
    partial = folder.with_name(f"{folder.name}.restoring")
    try:
        partial.mkdir(parents=True, exist_ok=True, mode=0o700)
        manifest = unpack(file, partial, passphrase, progress)
        for database in partial.rglob("*.db"):
            _check_database(database)
        note = {"file": file.name, "at": iso(manifest.at), "program": manifest.program}
        write_private(partial / RESTORED, json.dumps(note).encode())
        (partial / _HISTORY).mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in partial.rglob("*"):
            if path.is_dir():
                sync(path)
        sync(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"restore {file}: {getattr(error, 'strerror', None) or error}") from error
    return manifest


def checked_file(text: str) -> Path:
    """Where a backup can be written. Raises ArgumentError."""
    file = Path(text)
    if not file.is_absolute():
        raise ArgumentError(f"file: {text[:80]!r} is not an absolute path")
    if file.exists():
        raise ArgumentError(f"file: {text} exists already: a backup makes a new one")
    if not file.parent.is_dir():
        raise ArgumentError(f"file: there is no folder {file.parent}")
    return file


def _check_database(path: Path) -> None:
    with closing(read_only(path)) as connection:
        ((found,),) = connection.execute("PRAGMA quick_check(1)")
    if found != "ok":
        raise StateError(f"restore: {path.name}: {found}")


def _drop_others(history: Path, paths: Iterable[str]) -> None:
    """What an interrupted try has copied that is not there any more."""
    wanted = set(paths)
    for path in history.rglob("*"):
        if path.is_file() and path.relative_to(history).as_posix() not in wanted:
            path.unlink()


def _begin(state: StateFolder, partial: Path) -> None:
    """All but telemetry: keys, token, registry, sessions, results of datasets."""
    shutil.rmtree(state.path / _LINKS, ignore_errors=True)  # of one that was killed
    partial.mkdir(mode=0o700, exist_ok=True)
    for left in partial.iterdir():
        if left.is_file():
            left.unlink()
        elif left.name != _HISTORY.parent.name:
            shutil.rmtree(left)
    for path in sorted(state.path.iterdir()):
        if path.name in _DATABASES:
            _copy_database(path, partial / path.name)
        elif path.is_dir() and path.name not in _OF_THE_PROCESS:
            shutil.copytree(path, partial / path.name, copy_function=_copy_there)
        elif path.is_file() and path.name not in _OF_THE_PROCESS and not path.name.startswith(_DATABASES):
            _copy_there(path, partial / path.name)
    (partial / _HISTORY).mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in (partial / _JOURNAL).parent.glob(f"{_JOURNAL.name}*"):
        left.unlink()


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
        closing(read_only(source, 30)) as there,
        closing(sqlite3.connect(target)) as here,
    ):
        there.backup(here)


def _take_out(registry: Path, begun: str) -> None:
    """This backup goes on in the registry's copy, where nothing would ever end it: that is no interruption."""
    with closing(sqlite3.connect(registry)) as connection, connection:
        connection.execute("DELETE FROM audit_begun WHERE id = ?", (begun,))


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
    with closing(read_only(journal)) as connection:
        paths = [path for (path,) in connection.execute(_FILES)]
    for path in paths:
        held = state / _LINKS / path
        held.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.link(state / _HISTORY / path, held)
    return paths


def _copy_files(held: Path, target: Path, paths: Iterable[str]) -> None:
    for path in paths:
        copy = target / path
        if copy.exists() and copy.stat().st_size == (held / path).stat().st_size:
            continue  # of a try that was interrupted: such a file never changes
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        coming = copy.with_name(f"{copy.name}.part")
        shutil.copy2(held / path, coming)
        coming.rename(copy)
