"""Answers that may be long, as a JSON array or as JSON lines, in slices that leave the loop to others."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import orjson
from starlette.responses import StreamingResponse

NDJSON = "application/x-ndjson"
_SLICE = 200


class JsonLines(StreamingResponse):
    """A JSON object a line."""

    media_type = NDJSON


def stream(chunks: AsyncIterator[Iterable[Any]], accept: str | None) -> StreamingResponse:
    """Stream objects: one JSON object a line where `accept` asks for NDJSON, else one array with an object a line."""
    if accept is not None and NDJSON in accept:
        return StreamingResponse(_lines(chunks), media_type=NDJSON)
    return StreamingResponse(_array(chunks), media_type="application/json")


async def begun(chunks: AsyncIterator[Iterable[Any]]) -> AsyncIterator[Iterable[Any]]:
    """The same, with the first chunk looked up: what can't be asked is known while an answer can still say so."""
    first = await anext(chunks, None)  # not (): CPython 3.11 takes a tuple apart and fails

    async def whole() -> AsyncIterator[Iterable[Any]]:
        yield first or ()
        async for chunk in chunks:
            yield chunk

    return whole()


async def _lines(chunks: AsyncIterator[Iterable[Any]]) -> AsyncIterator[bytes]:
    async for chunk in _sliced(chunks):
        yield b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in chunk)


async def _array(chunks: AsyncIterator[Iterable[Any]]) -> AsyncIterator[bytes]:
    separator = b"[\n"
    async for chunk in _sliced(chunks):
        yield separator + b",\n".join(map(orjson.dumps, chunk))
        separator = b",\n"
    yield b"[]\n" if separator == b"[\n" else b"\n]\n"


async def _sliced(chunks: AsyncIterator[Iterable[Any]]) -> AsyncIterator[list[Any]]:
    async for chunk in chunks:
        items = list(chunk)
        for start in range(0, len(items), _SLICE):
            yield items[start : start + _SLICE]
            await asyncio.sleep(0)
