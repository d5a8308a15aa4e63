"""Files of several streams as one dataset: a statement over thousands of datasets takes minutes to be planned."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from fleetgate.analytics.parts import Part
from fleetgate.analytics.quoting import folded
from ingester.history.columns import schema_of
from ingester.history.model import MIXED, SealedFile

_COLUMNS = 500
"""Of one dataset."""


@dataclass(slots=True)
class _Set:
    doubtful: bool
    columns: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name and type of each, by what DuckDB tells it apart by."""
    streams: dict[str, dict[str, str]] = field(default_factory=dict)
    fragments: list[ds.Fragment] = field(default_factory=list)

    def takes(self, fields: dict[str, str]) -> bool:
        """Whether these columns fit: no other column of these names, and enough room."""
        mine = self.columns
        fits = all(mine.get(folded(name), (name, kind)) == (name, kind) for name, kind in fields.items())
        return fits and len(mine) + sum(folded(name) not in mine for name in fields) <= _COLUMNS


class Combined:
    """Gathers files with typed columns; a stream is told by a value that all rows of a file have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._format = ds.ParquetFileFormat()
        self._files = pa.fs.LocalFileSystem()
        self._sets: list[_Set] = []

    def add(self, stream: str, fields: dict[str, str], files: Iterable[SealedFile], *, doubtful: bool) -> None:
        """Files of a stream with these columns."""
        there = (one for one in self._sets if one.doubtful == doubtful and one.takes(fields))
        found = next(there, None)
        if found is None:
            found = _Set(doubtful)
            self._sets.append(found)
        found.columns |= {folded(name): (name, kind) for name, kind in fields.items()}
        found.streams[stream] = {**found.streams.get(stream, {}), **fields}
        found.fragments += [
            self._format.make_fragment(str(self._folder / file.path), self._files, ds.field("stream") == stream)
            for file in files
        ]

    def parts(self) -> Iterator[tuple[Part, ds.Dataset]]:
        """The datasets that result; the parts have no names yet."""
        for one in self._sets:
            fields = dict(one.columns.values())
            schema = schema_of(fields, mixed=True)
            dataset = ds.FileSystemDataset(one.fragments, schema, self._format, self._files)
            yield Part("", MIXED, fields, one.doubtful, one.streams), dataset
