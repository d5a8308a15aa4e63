"""Copies files of the history into a database: all of it can then be read there, and stays here too."""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from ingester.history.culprits import is_outside
from ingester.history.model import DAY_US, DamagedError
from ingester.history.store import TieredStore
from ingester.postgres.copying import Copied, Copy
from ingester.process import Worker, WorkerLostError

log = structlog.get_logger("fleetgate.store")

_LOWEST = 19


@dataclass(slots=True)
class Migrated:
    """What came of it: files and readings that were copied now, files that were there before, and what is damaged."""

    files: int = 0
    rows: int = 0
    before: int = 0
    damaged: list[DamagedError] = field(default_factory=list)


async def migrate(
    store: TieredStore,
    url: str,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    width: int = DAY_US,
    worker: Worker | None = None,
) -> Migrated:
    """Copy what the database at `url` has not. Each file arrives whole, and as it was sent, or not at all.

    It may be stopped at any point, and begun again. A file that the database refuses is left out and listed with those
    that are damaged. Raises StoreUnavailable, WorkerLostError.
    """
    result = Migrated()
    async with worker or Worker(_LOWEST) as copier:
        files = store.catalogue.files
        for count, chosen in enumerate(files, 1):
            copied = await _copy(store, url, width, copier, chosen.id)
            if isinstance(copied, DamagedError):
                result.damaged.append(copied)
            elif copied is not None:
                result.files += copied.new
                result.before += not copied.new
                result.rows += copied.rows
                result.damaged += copied.damaged
            progress(count, len(files))
    return result


async def _copy(store: TieredStore, url: str, width: int, worker: Worker, file_id: int) -> Copied | DamagedError | None:
    """None: the file is gone. It is not merged with others any more, from before the first byte is sent."""
    async with store.changing:
        file = next((file for file in store.catalogue.files if file.id == file_id), None)
        if file is None:
            return None
        if file.copied is None:
            await store.catalogue.mark_copied(file)
        job = Copy(url, store.catalogue.gate, store.folder, file, file.copied or file.path, width)
        try:
            copied: Copied = await worker.call("ingester.postgres.copying:copy_file", job)
        except Exception as error:
            if is_outside(error) or isinstance(error, WorkerLostError):
                raise
            # Of this file only: the database refuses something that is in it. Nothing of it is there.
            log.error("a file is not copied", path=file.path, why=repr(error))
            return DamagedError(file.path, (0, file.rows - 1), str(error))
    return copied
