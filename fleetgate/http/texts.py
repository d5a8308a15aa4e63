"""Texts of requests: what no database and no answer can hold, NUL and half a character, is refused with its place."""

import re
from collections.abc import Iterator
from typing import Any

from fastapi import Request

from fleetgate.errors import ArgumentError
from fleetgate.http.bodies import is_json

_may_be_bad = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])").search
"""Both stand in JSON as escapes only; most surrogates are one half of a pair, which is well."""
_is_half = re.compile("[\ud800-\udfff]").search
_PAYLOAD = "payload"
"""A text of a body that is what a device gets: it may have NUL."""


async def check_texts(request: Request) -> None:
    """Dependency of every route of the API. Raises ArgumentError, which names the place."""
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if (wrong := _wrong(f"{name}{value}")) is not None:
            raise ArgumentError(f"{name[:64]!r}: {wrong}")
    if is_json(request) and _may_be_bad(await request.body()):
        for place, wrong in _found(await request.json()):
            raise ArgumentError(f"{place[:256]!r}: {wrong}")


def _found(body: Any) -> Iterator[tuple[str, str]]:
    """(place, what is wrong) of the texts and keys of a JSON value."""
    waiting: list[tuple[Any, str]] = [(body, "body")]
    while waiting:
        value, at = waiting.pop()
        if isinstance(value, str) and (wrong := _wrong(value, nul=at != f"body.{_PAYLOAD}")) is not None:
            yield at, wrong
        elif isinstance(value, list):
            waiting += [(item, f"{at}.{number}") for number, item in enumerate(value)]
        elif isinstance(value, dict):
            for key, item in value.items():
                if (wrong := _wrong(key)) is not None:
                    yield f"{at}.{key}", wrong
                waiting.append((item, f"{at}.{key}"))


def _wrong(text: str, *, nul: bool = True) -> str | None:
    if nul and "\0" in text:
        return "it has a NUL character"
    return "it has half of a surrogate pair" if _is_half(text) else None
