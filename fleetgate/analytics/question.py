"""What the process that answers SQL is asked, and what it says. Values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ingester.history.model import RollupFile, SealedFile
from ingester.history.rules import Rules


class Form(StrEnum):
    """How a result is written."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


MEDIA_TYPES = {
    Form.JSON: "application/json",
    Form.CSV: "text/csv",
    Form.PARQUET: "application/vnd.apache.parquet",
    Form.ARROW: "application/vnd.apache.arrow.stream",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one question may take."""

    seconds: float = 30
    memory_bytes: int = 1024**3
    rows: int = 100_000


@dataclass(frozen=True, slots=True)
class Question:
    """One SELECT, and what it is asked of: `files` below `folder`, journal rows with ids above `until`, and `devices`
    as columns of equal length.
    """

    sql: str
    form: Form
    bounds: Bounds
    journal: Path
    folder: Path
    until: int
    files: Sequence[SealedFile] = ()
    rollups: Sequence[RollupFile] = ()
    devices: dict[str, list[Any]] = field(default_factory=dict)
    window: tuple[int, int] | None = None
    """What $since and $until stand for, in microseconds since 1970-01-01 UTC."""
    chosen: list[str] = field(default_factory=list)
    """Names in the table `chosen`."""
    rules: Rules = field(default_factory=Rules)
    """What becomes of readings that are there twice."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result as bytes in the form that was asked for, or what is wrong with the question."""

    data: bytes = b""
    rows: int = 0
    error: str = ""
