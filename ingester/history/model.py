"""Values of the history: which file holds what. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

from ingester.history.rules import Rules
from ingester.sqlite.rows import JournalRow

DAY_US = 86_400_000_000
_NAME_BYTES = 200
_EPOCH = date(1970, 1, 1)


class Reading(NamedTuple):
    """One reading on its way out of the journal. `time` is where it is found; `payload` is that of its message, None
    where it is not kept.
    """

    device: str
    stream: str
    time: int
    received: int
    position: int
    device_time: int | None
    marks: tuple[str, ...]
    fields: dict[str, Any]
    payload: bytes | None = None


SOUND = (0, 0)
"""The part of a job that is no part of it, but a message that can be sealed for sure."""

TRIAL = "trial-"
"""Prefix of the names of folders of trials."""

MIXED = ""
"""The stream of a file that holds readings of many streams, each of which had too few for a file of its own."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One file, as the catalogue has it. It is never changed.

    `path` is relative to the history folder; `stream` MIXED or the one that all of its readings are of; `first` and
    `last` bound where its readings are found, `received_last` when they came (microseconds since 1970-01-01 UTC);
    `messages` is how many PUBLISH packets, `rows` how many readings it has; `fields` the type of each typed column;
    `place` orders files by receipt.
    """

    path: str
    stream: str
    rows: int
    messages: int
    first: int
    last: int
    received_last: int
    size_bytes: int
    sha256: str
    fields: Mapping[str, str] = field(default_factory=dict)
    place: int = 0
    id: int = 0
    copied: str | None = None
    """Under which path it was copied to another database, or may have been."""


LEVELS: Mapping[str, int] = {"1m": 60_000_000, "1h": 3_600_000_000, "1d": DAY_US}
"""Levels of roll-ups, each made of the one before it: their width in microseconds."""


Sum = tuple[int, int, float, float, float, float, int]
"""(time, count, min, max, sum, last, last_time) of a stretch of time, or of a part of what is in it."""


@dataclass(frozen=True, slots=True)
class RollupFile:
    """One file of sums; `first` and `last` bound the times that it is about (microseconds since 1970-01-01 UTC)."""

    path: str
    level: str
    rows: int
    first: int
    last: int
    size_bytes: int
    sha256: str
    id: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """Seal journal rows with ids above `after` and at most `until`: as many of them as have `most` messages, or
    `most_bytes` of payload.

    `name` is a part of the files' names; nothing else is called so.
    """

    journal: Path
    folder: Path
    name: str
    after: int
    until: int
    most: int
    rules: Rules = field(default_factory=Rules)
    most_bytes: int = 64 * 1024 * 1024
    earlier: Sequence[SealedFile] = ()
    """Files of streams whose rule is to drop what is there twice, or of many streams."""
    part: tuple[int, int] | None = None
    """A trial with these of its messages only, of which nothing is left; see SOUND."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """A message that can't be sealed, or moved; or all of a row that can't be taken apart, or fails as a whole only.

    `part` is where it is in its journal `row`; `left` what the row is without it, None: nothing; `messages` its
    (received, payload); `remembered` what copies of it are told by.
    """

    row: JournalRow
    part: tuple[int, int]
    left: JournalRow | None
    messages: list[tuple[int, bytes]]
    remembered: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What was written: rows up to `until` are in `files`; `remembered` has the entries of each device."""

    files: list[SealedFile]
    until: int
    messages: int
    remembered: dict[str, bytes]
    rollups: list[RollupFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Merge:
    """Write what is in `files` into new ones, called after `name`."""

    folder: Path
    name: str
    files: Sequence[SealedFile]
    rules: Rules = field(default_factory=Rules)


class DamagedError(Exception):
    """A part of a file no longer reads. `rows` is the first and the last of its rows that are lost."""

    def __init__(self, path: str, rows: tuple[int, int], detail: str) -> None:
        super().__init__(f"{path}: rows {rows[0]} to {rows[1]} are damaged: {detail}")
        self.path = path
        self.rows = rows
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, tuple[int, int], str]]:
        return type(self), (self.path, self.rows, self.detail)


@dataclass(frozen=True, slots=True)
class Without:
    """What a file became without a device, none where nothing is left of it; and how many readings went."""

    files: list[SealedFile]
    gone: int


def has_folder(stream: str) -> bool:
    """Whether a stream's name can be that of a folder."""
    return len(quote(stream, safe="")) <= _NAME_BYTES


def folder_of(stream: str, day: int | None) -> PurePosixPath:
    """Where files of a stream and a day (since 1970-01-01) are, None: files with many streams."""
    if day is None:
        return PurePosixPath("mixed")
    return PurePosixPath(f"stream={quote(stream, safe='')}", f"day={date_of(day)}")


def date_of(day: int) -> str:
    """A day since 1970-01-01 as ISO 8601."""
    return str(_EPOCH + timedelta(days=day))
