"""Readings of one device, stream and time that are in several places, and what their stream's rule makes of them.

Each file is free of them by itself; files that overlap in time, and the journal, may have one twice until they are
merged. Only those are looked at.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from fleetgate.analytics.parts import TIME, Part
from ingester.history.columns import readings_of, table_of
from ingester.history.duplicates import resolve_readings
from ingester.history.model import MIXED, Reading, SealedFile
from ingester.history.rules import Rules

_KEY = pa.schema([("device", pa.string()), ("stream", pa.string()), ("time", TIME)])


def overlapping(files: Sequence[SealedFile], journal: Mapping[str, Sequence[Reading]], rules: Rules) -> set[str]:
    """Paths of files that may have a reading which is elsewhere too, of streams that have a rule for it."""
    if not rules.resolves:
        return set()
    spans = [(file.first, file.last, file.stream, file.path) for file in files if _resolves(file.stream, rules)]
    spans += [
        (min(times), max(times), stream, "")
        for stream, readings in journal.items()
        if _resolves(stream, rules) and (times := [reading.time for reading in readings])
    ]
    found: set[str] = set()
    reaching: dict[str, tuple[int, str]] = {}  # by stream: the end of what began earlier, and of which file that is
    for first, last, stream, path in sorted(spans):
        for other in reaching if stream == MIXED else (stream, MIXED):
            if other in reaching and reaching[other][0] >= first:
                found |= {path, reaching[other][1]}
        reaching[stream] = max((last, path), reaching.get(stream, (last, path)))
    return found - {""}


def resolved(connection: "duckdb.DuckDBPyConnection", parts: Iterable[Part], rules: Rules) -> list[Part]:
    """The parts with each reading as the rule of its stream wants it."""
    parts = list(parts)
    if not rules.resolves:
        return parts
    doubtful = [part for part in parts if part.doubtful and _resolves(part.stream, rules)]
    if not doubtful:
        return parts
    every = " UNION ALL ".join(f"SELECT device, {part.of_stream} AS stream, time FROM {part.name}" for part in doubtful)
    found: Any = connection.execute(f"SELECT * FROM ({every}) GROUP BY ALL HAVING count(*) > 1").to_arrow_table()
    streams = found.column("stream").to_pylist()
    keys: pa.Table = found.filter(pa.array([rules.of(stream).duplicates != "keep" for stream in streams], pa.bool_()))
    if not keys.num_rows:
        return parts
    connection.register("part_keys", keys.cast(_KEY))
    readings: list[Reading] = []
    for part in doubtful:
        stream = "part.stream" if part.stream == MIXED else part.of_stream
        same = f"part.device = twice.device AND part.time = twice.time AND {stream} = twice.stream"
        twice = f"{part.name} AS part SEMI JOIN part_keys AS twice ON {same}"
        readings += readings_of(connection.execute(f"SELECT * FROM {twice}").to_arrow_table(), part.stream)
        once = f"{part.name}_once"
        connection.execute(
            f"CREATE VIEW {once} AS SELECT * FROM {part.name} AS part ANTI JOIN part_keys AS twice ON {same}"
        )
        parts[parts.index(part)] = part.called(once)
    readings.sort(key=lambda reading: (reading.received, reading.position))
    by_stream: dict[str, list[Reading]] = {}
    for reading in resolve_readings(readings, rules):
        by_stream.setdefault(reading.stream, []).append(reading)
    for number, (stream, kept) in enumerate(by_stream.items()):
        table, fields = table_of(kept)
        name = f"part_resolved_{number}"
        connection.register(name, table)
        parts.append(Part(name, stream, fields))
    return parts


def _resolves(stream: str, rules: Rules) -> bool:
    return stream == MIXED or rules.of(stream).duplicates != "keep"
