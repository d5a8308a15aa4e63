"""Copies files of the history into a database: all of it can then be read there, and stays here too."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ingester.history.model import DAY_US, DamagedError
from ingester.history.store import TieredStore
from ingester.postgres.copying import Copied, Copy
from ingester.process import Worker

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

    It may be stopped at any point, and begun again. Raises StoreUnavailable, StoreRejected, WorkerLostError.
    """
    result = Migrated()
    async with worker or Worker(_LOWEST) as copier:
        files = store.catalogue.files
        for count, chosen in enumerate(files, 1):
            copied = await _copy(store, url, width, copier, chosen.id)
            if copied is not None:
                result.files += copied.new
                result.before += not copied.new
                result.rows += copied.rows
                result.damaged += copied.damaged
            progress(count, len(files))
    return result


async def _copy(store: TieredStore, url: str, width: int, worker: Worker, file_id: int) -> Copied | None:
    """None: the file is gone. It is not merged with others any more, from before the first byte is sent."""
    async with store.changing:
        file = next((file for file in store.catalogue.files if file.id == file_id), None)
        if file is None:
            return None
        if file.copied is None:
            await store.catalogue.mark_copied(file)
        job = Copy(url, store.catalogue.gate, store.folder, file, file.copied or file.path, width)
        copied: Copied = await worker.call("ingester.postgres.copying:copy_file", job)
    return copied
