"""What the views are made of: tables and datasets that DuckDB knows by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import pyarrow as pa

from fleetgate.analytics.quoting import quoted_text
from ingester.history.model import MIXED

TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class Part:
    """A table or dataset that DuckDB knows as `name`: of one stream, or of many (its rows say which).

    `doubtful`: a reading in it may be in another part too. `streams`: the types of the fields of each stream, where it
    has files of several; where it has files that many streams share, nothing but their readings says that.
    """

    name: str
    stream: str
    fields: dict[str, str]
    doubtful: bool = False
    streams: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def of_stream(self) -> str:
        """SQL of the stream of a row."""
        return "stream" if self.stream == MIXED else quoted_text(self.stream)

    def called(self, name: str) -> Self:
        """The same under another name."""
        return replace(self, name=name)
