"""The last messages of the topics of sources, in the journal's file: read at the start, written with messages."""

import structlog

from ingester.errors import StoreUnavailable
from ingester.seen import SeenTopics
from ingester.sqlite.store import SqliteStore, seen_statement

log = structlog.get_logger("fleetgate.ingest")

_SELECT = "SELECT source, topic, content FROM seen_topics"


class KeptSeenTopics:
    """An async context manager: while it is open, what `seen` has outlives the process."""

    def __init__(self, seen: SeenTopics, journal: SqliteStore) -> None:
        self._seen = seen
        self._journal = journal

    async def __aenter__(self) -> SeenTopics:
        self._seen.load(await self._journal.read(_SELECT))
        return self._seen

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._journal.apply(map(seen_statement, self._seen.changes()))
        except StoreUnavailable as error:
            log.warning("topics of sources are not stored: retained messages may be stored once more", error=str(error))
