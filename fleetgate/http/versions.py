"""Versions of what the API gives out, as entity tags: a change may say which version was seen [RFC 9110, 13]."""

import re
from typing import Annotated, Protocol, TypeVar

from fastapi import Header, Response

from fleet.errors import StaleError
from fleetgate.errors import ArgumentError
from fleetgate.http.names import looks_like

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description='the version that was seen, as in ETag: "3"; else no matter which',
        json_schema_extra=looks_like(r'^("[0-9]{1,18}"|[*])$'),
    ),
]

_is_tag = re.compile(r'"(\d{1,18})"').fullmatch


class Versioned(Protocol):
    """Something with a version."""

    version: int


V = TypeVar("V", bound=Versioned)


def with_version(response: Response, found: V) -> V:
    """Give out something with its version in ETag."""
    response.headers["ETag"] = f'"{found.version}"'
    return found


def expected_version(if_match: str | None) -> int | None:
    """The version that a client has seen; None: it does not say. Raises ArgumentError, StaleError."""
    if if_match is None or if_match == "*":
        return None
    if not if_match:
        raise StaleError("If-Match: it names no version")  # no tag matches [RFC 9110, 13.1.1]
    if (found := _is_tag(if_match)) is None:
        raise ArgumentError(f'If-Match: {if_match[:40]!r} is not a version such as "3"')
    return int(found[1])
