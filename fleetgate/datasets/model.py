"""What a dataset is, and when it is due. Pure."""

from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fleetgate.analytics.question import Bounds, Form
from fleetgate.errors import ArgumentError
from fleetgate.times import parse_duration

_BOUNDS = Bounds()


class Definition(BaseModel):
    """A question and what becomes of its result.

    `sql` may say $since and $until: the times of receipt after which, and up to which, telemetry is new. `every` is a
    duration, counted from midnight of 1970-01-01 UTC. `keep` is how many results are kept; `folder` and `webhook` say
    where each is brought.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    sql: str = Field(min_length=1, max_length=100_000)
    every: str = "1h"
    format: Form = Form.CSV
    keep: int = Field(24, ge=1, le=10_000)
    folder: str = ""
    webhook: str = ""
    seconds: float = Field(_BOUNDS.seconds, gt=0, le=600)
    memory_bytes: int = Field(_BOUNDS.memory_bytes, ge=64 * 1024**2, le=64 * 1024**3)
    rows: int = Field(_BOUNDS.rows, ge=1, le=10_000_000)

    @field_validator("every")
    @classmethod
    def _duration(cls, text: str) -> str:
        try:
            parse_duration(text, "every")
        except ArgumentError as error:
            raise ValueError(str(error)) from None
        return text

    @field_validator("folder")
    @classmethod
    def _absolute(cls, text: str) -> str:
        if text and not PurePath(text).is_absolute():
            raise ValueError(f"folder: {text!r} does not begin with /")
        return text

    @field_validator("webhook")
    @classmethod
    def _url(cls, text: str) -> str:
        parts = urlsplit(text)
        if text and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None):
            raise ValueError(f"webhook: {text!r} is not http(s)://host/..., without user and password")
        return text

    @property
    def bounds(self) -> Bounds:
        """What one question may take."""
        return Bounds(self.seconds, self.memory_bytes, self.rows)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A definition, as it is kept. Times are microseconds since 1970-01-01 UTC, 0: not yet.

    Telemetry that was received up to `watermark` is in its results; `ran` is when it was asked last, and `problem` what
    was wrong then.
    """

    name: str
    definition: Definition
    version: int
    watermark: int = 0
    ran: int = 0
    problem: str = ""

    def due(self, now: int) -> bool:
        """Whether it is to be asked now."""
        return self.ran > now or self.next_run() <= now

    def next_run(self) -> int:
        """When it is to be asked next; 0: at once."""
        every = parse_duration(self.definition.every, "every")
        return (self.ran // every + 1) * every if self.ran else 0


@dataclass(frozen=True, slots=True)
class Version:
    """One result: of telemetry received after `since` and up to `until`.

    `delivered` is when it had been brought wherever it is to go, 0: not yet, and `problem` says why not.
    """

    dataset: str
    number: int
    at: int
    since: int
    until: int
    rows: int
    size_bytes: int
    sha256: str
    format: Form
    delivered: int = 0
    problem: str = ""

    @property
    def file_name(self) -> str:
        """What its file is called."""
        return f"{self.dataset}-{self.number:06}.{self.format.value}"
