"""The process that answers one question. By the time it looks at the SELECT it can't open, write or load anything."""

import csv
import gc
import io
import os
import pickle
import resource
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from fleetgate.analytics.question import Answer, Form, Question
from fleetgate.analytics.quoting import numbered
from fleetgate.analytics.views import build, json_value
from fleetgate.times import iso

_CONFIG: dict[str, Any] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "threads": "2",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOWEST = 10
_BATCH = 10_000
_ADDRESSES_BEYOND = 6 * 1024**3
"""Address space that is set aside beside what is used: by allocators and mapped libraries."""


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer one pickled question: a line of JSON about the answer, and its data behind it."""
    os.nice(_LOWEST)
    gc.disable()  # it ends soon, and readings are many
    question: Question = pickle.load(requests)
    _confine(question.bounds.memory_bytes)
    try:
        answer = _answer(question)
    except duckdb.Error as error:
        answer = Answer(error=_one_line(error))
    except MemoryError:
        answer = Answer(error=f"more than {question.bounds.memory_bytes} bytes of memory")
    answers.write(orjson.dumps({"rows": answer.rows, "error": answer.error}) + b"\n" + answer.data)
    answers.flush()


def _confine(memory_bytes: int) -> None:
    """Whatever DuckDB may be talked into: no file is written, and memory ends somewhere."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = memory_bytes + _ADDRESSES_BEYOND
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _answer(question: Question) -> Answer:
    bounds = question.bounds
    with duckdb.connect(config={**_CONFIG, "memory_limit": f"{bounds.memory_bytes}B"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")  # it would be written into the answer
        build(connection, question)
        connection.execute("SET lock_configuration = true")
        statements = connection.extract_statements(question.sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            return Answer(error="one SELECT is answered, and nothing else")
        given = _window(question, statements[0].named_parameters)
        reader: Any = connection.sql(statements[0], params=given).to_arrow_reader(_BATCH)
        batches, count = [], 0
        for batch in reader:
            batches.append(batch)
            count += batch.num_rows
            if count > bounds.rows:
                return Answer(error=f"more than {bounds.rows} rows: add a LIMIT, or raise the limit of rows")
        table = pa.Table.from_batches(batches, reader.schema)
        return Answer(_written(table.rename_columns(numbered(table.column_names)), question.form), count)


def _window(question: Question, names: set[str]) -> dict[str, datetime]:
    """Values of the parameters that the statement has, of those that there are."""
    if question.window is None:
        return {}
    since, until = (_EPOCH + timedelta(microseconds=time) for time in question.window)
    return {name: value for name, value in (("since", since), ("until", until)) if name in names}


def _written(table: pa.Table, form: Form) -> bytes:
    if form is Form.ARROW:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())
    if form is Form.PARQUET:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        return bytes(sink.getvalue())
    names = table.column_names
    rows = zip(*(_values(column) for column in table.columns), strict=True)
    if form is Form.CSV:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows([_cell(value) for value in row] for row in rows)
        return text.getvalue().encode()
    lines = [orjson.dumps(dict(zip(names, row, strict=True)), default=str, option=_JSON) for row in rows]
    return b"[" + b",\n".join(lines) + b"]\n"


_JSON = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp("us", tz="UTC"))
        return [None if value is None else iso(value) for value in column.cast(pa.int64()).to_pylist()]
    return [json_value(value) for value in column.to_pylist()]


def _cell(value: Any) -> Any:
    return orjson.dumps(value, default=str).decode() if isinstance(value, list | dict) else value


def _one_line(error: duckdb.Error) -> str:
    return " ".join(str(error).split())[:1000]


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
