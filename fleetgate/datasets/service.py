"""Datasets in fleet.db, their results in a folder, and what asks and delivers them in time."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import structlog
from sqlalchemy import select, update

from fleet.errors import NotFoundError
from fleet.files import write_private
from fleet.names import check_name
from fleet.registry.database import FAILURES, Database
from fleet.registry.model import check_version
from fleet.registry.schema import dataset_versions as versions_table
from fleet.registry.schema import datasets as table
from fleetgate.analytics.question import Form
from fleetgate.analytics.service import Analytics, QuestionError
from fleetgate.datasets.delivery import DeliveryError, deliver
from fleetgate.datasets.model import Dataset, Definition, Version
from ingester.clock import Clock, now_us
from ingester.errors import StoreError
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate.datasets")

_LOOK_SECONDS = 1
_AGAIN_US = 60_000_000
"""After a delivery that failed."""


class DatasetsError(Exception):
    """Some datasets could not be made or brought: the message names them, and why."""


_FAILED = (DatasetsError, *FAILURES, OSError)


class Datasets:
    """An async context manager. `settled` gives a time up to which all that was received is committed."""

    def __init__(
        self,
        database: Database,
        analytics: Analytics,
        folder: Path,
        settled: Callable[[], Awaitable[int]],
        clock: Clock = now_us,
        background: Background | None = None,
        last_set: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._database = database
        self._analytics = analytics
        self._folder = folder
        self._settled = settled
        self._clock = clock
        self._began = clock()
        self._last_set = last_set or (lambda: (self._began, 0))
        self._asked: dict[str, tuple[int, int]] = {}
        """When the clock had been set last, as each was asked last in this run."""
        self._found: dict[str, Dataset] = {}
        self._undelivered = True
        """Whether there may be results that were not brought yet."""
        self._again: dict[str, int] = {}
        """When a delivery is tried again."""
        self._busy = asyncio.Lock()
        self._every = Every("datasets", _LOOK_SECONDS, self._run_all, failures=_FAILED, background=background)

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            for row in await connection.execute(table.select()):
                definition = Definition.model_validate_json(row.document)
                self._found[row.name] = Dataset(row.name, definition, row.version, row.watermark, row.ran, row.problem)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.stop()

    def start(self) -> None:
        """From now on, ask and deliver in time."""
        self._every.start()

    def all(self) -> Sequence[Dataset]:
        """All of them, by name."""
        return [self._found[name] for name in sorted(self._found)]

    def get(self, name: str) -> Dataset:
        """One of them; raises NotFoundError."""
        if name not in self._found:
            raise NotFoundError(f"no dataset named {name[:128]!r}")
        return self._found[name]

    async def put(self, name: str, definition: Definition, expected: int | None = None) -> Dataset:
        """Define one, or change it; where it goes on stays. Raises InvalidNameError, StaleError."""
        check_name(name)
        async with self._busy, self._database.transaction() as connection:
            known = self._found.get(name)
            version = check_version(f"dataset {name}", known.version if known else 0, expected)
            made = replace(known or Dataset(name, definition, 0), definition=definition, version=version)
            await connection.execute(table.delete().where(table.c.name == name))
            await connection.execute(table.insert(), [_row(made)])
        self._found[name] = made
        return made

    async def delete(self, name: str) -> None:
        """Forget one, and its results. Raises NotFoundError."""
        async with self._busy, self._database.transaction() as connection:
            self.get(name)
            await connection.execute(table.delete().where(table.c.name == name))
            gone = await self._delete_versions(connection, versions_table.c.dataset == name)
        del self._found[name]
        await asyncio.to_thread(self._unlink, gone)

    async def versions(self, name: str) -> list[Version]:
        """Results of one that are kept, the oldest first. Raises NotFoundError."""
        self.get(name)
        return await self._versions(versions_table.c.dataset == name)

    async def read(self, name: str, number: int | None = None) -> tuple[Version, bytes]:
        """One result, or the newest. Raises NotFoundError."""
        for version in reversed(await self.versions(name)):
            if number in {None, version.number}:
                return version, await asyncio.to_thread(self._path(version).read_bytes)
        raise NotFoundError(f"dataset {name} has no such result")

    async def run(self, name: str) -> Version:
        """Ask now, whatever its schedule says. Raises NotFoundError, QuestionError, StoreError."""
        async with self._busy:
            dataset = self.get(name)
            definition = dataset.definition
            until = await self._settled()
            last_set = self._last_set()
            since, upto = self._window(dataset, until, last_set)
            try:
                answer = await self._analytics.ask(definition.sql, definition.format, definition.bounds, (since, upto))
            except (QuestionError, StoreError) as error:
                await self._note(replace(dataset, ran=self._clock(), problem=str(error)))
                raise
            made = [version.number for version in await self._versions(versions_table.c.dataset == name)]
            version = Version(
                name,
                max(made, default=0) + 1,
                self._clock(),
                since,
                upto,
                answer.rows,
                len(answer.data),
                hashlib.sha256(answer.data).hexdigest(),
                definition.format,
                0 if definition.folder or definition.webhook else self._clock(),
            )
            await asyncio.to_thread(self._write, version, answer.data)
            await self._note(replace(dataset, watermark=until, ran=self._clock(), problem=""), version)
            self._asked[name] = last_set
            self._undelivered = True
            log.info("dataset made", dataset=name, number=version.number, rows=version.rows)
            return version

    async def deliver(self) -> int:
        """Bring what was not brought yet, the oldest first: how many came to their ends."""
        done = 0
        self._undelivered = False  # from here on whoever makes one says so
        for version in await self._versions(versions_table.c.delivered == 0):
            self._undelivered = True
            dataset = self._found.get(version.dataset)
            if dataset is None or 0 < self._again.get(version.dataset, 0) - self._clock() <= _AGAIN_US:
                continue
            try:
                data = await asyncio.to_thread(self._path(version).read_bytes)
                await deliver(dataset.definition, version, data)
            except (DeliveryError, OSError) as error:
                self._again[version.dataset] = self._clock() + _AGAIN_US
                log.warning("dataset not delivered, again later", dataset=version.dataset, error=str(error))
                await self._mark(version, 0, str(error))
            else:
                self._again.pop(version.dataset, None)
                await self._mark(version, self._clock(), "")
                done += 1
        return done

    def _window(self, dataset: Dataset, until: int, last_set: tuple[int, int]) -> tuple[int, int]:
        """After and until which time of receipt. When the clock was set back since it was asked last, times of receipt
        began again: some readings come twice, none is left out.
        """
        asked = self._asked.get(dataset.name)
        begin, end = (self._began, dataset.watermark) if asked is None else last_set
        if asked == last_set or begin >= dataset.watermark:
            return min(dataset.watermark, until), until
        return min(begin - 1, until), max(end, dataset.watermark, until)

    async def _run_all(self) -> None:
        """Ask and bring what is due. Raises what went wrong when all had their turn, and DatasetsError as long as there
        is one that could not be made or brought when it was tried last.
        """
        failed: Exception | None = None
        for dataset in self.all():
            if dataset.due(self._clock()):
                try:
                    await self.run(dataset.name)
                except NotFoundError:
                    pass  # deleted meanwhile
                except (QuestionError, StoreError) as error:  # its problem, from now on
                    log.error("dataset not made", dataset=dataset.name, error=str(error))
                except Exception as error:  # noqa: BLE001 - it is raised when the others were made
                    failed = failed or error
        if self._undelivered:
            await self.deliver()
        if failed is not None:
            raise failed
        problems = [f"{dataset.name}: {dataset.problem}" for dataset in self.all() if dataset.problem]
        problems += [f"{name}: a result is not delivered" for name in self._again if name in self._found]
        if problems:
            raise DatasetsError("; ".join(problems))

    async def _note(self, dataset: Dataset, version: Version | None = None) -> None:
        """Keep how far it came, with its result, in one transaction; results beyond `keep` go."""
        async with self._database.transaction() as connection:
            await connection.execute(update(table).where(table.c.name == dataset.name).values(**_row(dataset)))
            gone: list[Version] = []
            if version is not None:
                await connection.execute(versions_table.insert(), [_version_row(version)])
                old = versions_table.c.number <= version.number - dataset.definition.keep
                gone = await self._delete_versions(connection, (versions_table.c.dataset == dataset.name) & old)
        self._found[dataset.name] = dataset
        for lost in gone:
            if not lost.delivered:
                log.error("a result was never delivered", dataset=lost.dataset, number=lost.number, error=lost.problem)
        await asyncio.to_thread(self._unlink, gone)

    async def _mark(self, version: Version, delivered: int, problem: str) -> None:
        this = (versions_table.c.dataset == version.dataset) & (versions_table.c.number == version.number)
        async with self._database.transaction() as connection:
            await connection.execute(update(versions_table).where(this).values(delivered=delivered, problem=problem))

    async def _versions(self, where: Any) -> list[Version]:
        async with self._database.reading() as connection:
            return await _versions_of(connection, where)

    async def _delete_versions(self, connection: Any, where: Any) -> list[Version]:
        gone = await _versions_of(connection, where)
        await connection.execute(versions_table.delete().where(where))
        return gone

    def _path(self, version: Version) -> Path:
        return self._folder / version.dataset / version.file_name

    def _write(self, version: Version, data: bytes) -> None:
        path = self._path(version)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, data)

    def _unlink(self, gone: Sequence[Version]) -> None:
        for version in gone:
            self._path(version).unlink(missing_ok=True)


async def _versions_of(connection: Any, where: Any) -> list[Version]:
    found = await connection.execute(select(versions_table).where(where).order_by(*versions_table.primary_key.columns))
    return [Version(**{**row, "format": Form(row["format"])}) for row in found.mappings()]


def _row(dataset: Dataset) -> Mapping[str, Any]:
    return {
        "name": dataset.name,
        "document": dataset.definition.model_dump_json(),
        "version": dataset.version,
        "watermark": dataset.watermark,
        "ran": dataset.ran,
        "problem": dataset.problem,
    }


def _version_row(version: Version) -> Mapping[str, Any]:
    return {name: getattr(version, name) for name in versions_table.columns.keys()}  # noqa: SIM118 - not a dict
