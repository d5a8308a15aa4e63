"""Questions to a large history: 10,000 devices, a message a minute each, 100 million messages, idle and during ingest.

One file of as many readings as files are merged to is made as sealing does, and written again for each 96 minutes of
seven days, with its times moved.
"""

import asyncio
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.history import Fleet, keep_ingesting, median
from benchmarks.machine import describe
from fleetgate.analytics.buckets import Asked, sql_of
from fleetgate.analytics.question import Bounds, Form, Question
from fleetgate.analytics.service import ask_process
from fleetgate.cli.target import run
from fleetgate.simulator import Readings
from ingester.history import files
from ingester.history.columns import table_of
from ingester.history.model import DAY_US, Reading, SealedFile, folder_of
from ingester.history.sealer import Sealer
from ingester.history.store import TieredStore
from ingester.query import buckets
from ingester.store import Selection

DEVICES = 10_000
OF_A_DEVICE = 96
"""Messages in a file, one a minute."""
FILES = 105
STEP_US = OF_A_DEVICE * 60_000_000
FIRST = 1_795_392_000_000_000
AT_ONCE = 1000
"""Messages that come twice a second meanwhile: ten times what these devices send."""
_TRIES = 30


def main() -> None:
    """Measure, in a folder on the disk of the working directory."""
    print(describe())
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        run(_measure(Path(folder)))


async def _measure(folder: Path) -> None:
    fleet = Fleet(DEVICES)
    async with TieredStore(folder) as store:
        started = time.perf_counter()
        made = await asyncio.to_thread(_write, store.folder, fleet)
        await store.catalogue.add(made, [], 0)
        size = sum(file.size_bytes for file in made) / sum(file.messages for file in made)
        print(
            f"{sum(file.messages for file in made):,} messages of {DEVICES:,} devices in {len(made)} files, {size:.2f}"
            f" bytes a message, written in {time.perf_counter() - started:.0f} s\n",
            flush=True,
        )
        await _ask(store, fleet)


def _write(folder: Path, fleet: Fleet) -> list[SealedFile]:
    table, fields = table_of(_readings(fleet))

    def write(number: int) -> SealedFile:
        moved, first = table, FIRST + number * STEP_US
        for name in ("time", "received"):
            at = table.schema.get_field_index(name)
            column = pc.add(table.column(name).cast(pa.int64()), number * STEP_US).cast(table.schema.field(at).type)
            moved = moved.set_column(at, table.schema.field(at), column)
        path = folder_of("default", first // DAY_US) / f"{number:012d}.parquet"
        size, sha256 = files.write_table(folder, path, moved, ("device", "time"))
        last = first + STEP_US
        rows = table.num_rows
        return SealedFile(str(path), "default", rows, rows, first, last - 1, last, size, sha256, fields)

    with ThreadPoolExecutor(2) as pool:
        return [replace(file, place=number) for number, file in enumerate(pool.map(write, range(FILES)))]


def _readings(fleet: Fleet) -> list[Reading]:
    """What each device sends in the time of one file."""
    found = []
    for number, name in enumerate(fleet.names):
        readings, first = Readings(number), FIRST / 1e6 + 60 * number / DEVICES
        for minute in range(OF_A_DEVICE):
            sent = first + 60 * minute + random.gauss(0.01, 0.002)
            fields = orjson.loads(readings.at(sent))
            found.append(Reading(name, "default", fields.pop("ts") * 1000, int(sent * 1e6) + 4000, 0, None, (), fields))
    return found


async def _ask(store: TieredStore, fleet: Fleet) -> None:
    chance = random.Random(2)
    end = FIRST + FILES * STEP_US
    of_day = Asked("temperature", 3_600_000_000, "default", end - DAY_US, end - 1)

    def some() -> Selection:
        return Selection(chance.choice(fleet.names), None, end - DAY_US, end)

    async def day() -> None:
        assert sum([len(rows) async for rows in store.rows(some())]) == DAY_US // 60_000_000

    async def hours() -> None:
        assert len(await buckets(store, some(), "temperature", 3_600_000_000)) == 24

    async def newest() -> None:
        assert len(await store.newest(Selection(chance.choice(fleet.names), end=end), 100)) == 100

    async def asked(sql: str) -> None:
        with store.reading() as snapshot:
            journal = store.folder.parent / "journal.db"
            question = Question(
                sql, Form.JSON, Bounds(), journal, store.folder, snapshot.until, snapshot.files, (), {"name": []}
            )
            answer = await ask_process(question)
            assert (answer.error, answer.rows) == ("", 24), answer

    typed = (
        "SELECT time_bucket(INTERVAL 1 HOUR, time) AS hour, avg(temperature) FROM streams.default"
        f" WHERE time >= make_timestamptz({end - DAY_US}) AND time < make_timestamptz({end}) GROUP BY 1"
    )
    questions = (
        ("one device, 24 h (1,440 readings)", day, _TRIES),
        ("one device, 24 h by the hour", hours, _TRIES),
        ("one device, newest 100", newest, _TRIES),
        ("all devices, 24 h by the hour (14,400,000 readings), SQL", lambda: asked(typed), 5),
        ("the same, `query --devices`", lambda: asked(sql_of(of_day, chosen=False)), 5),
    )
    idle = [await median(ask, tries) for _, ask, tries in questions]
    stop = asyncio.Event()
    async with Sealer(store) as sealer:
        sealer.start()
        ingesting = asyncio.create_task(keep_ingesting(store, fleet, stop, AT_ONCE))
        during = [await median(ask, tries) for _, ask, tries in questions]
        stop.set()
        await ingesting
    print("| query | idle, ms | during ingest, ms |\n|---|---|---|")
    for (name, *_), before, after in zip(questions, idle, during, strict=True):
        print(f"| {name} | {before:.1f} | {after:.1f} |", flush=True)
