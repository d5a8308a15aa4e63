"""A fleet query as a tree, and the fields that can be asked for. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from fleet.errors import FleetError


class QueryError(FleetError):
    """A query that can't be read, or asks for what is not there. `column` counts from 1."""

    def __init__(self, column: int, problem: str) -> None:
        super().__init__(f"query, column {column}: {problem}")
        self.column = column


class Op(StrEnum):
    """How a field is compared."""

    IS = ":"
    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="


class Form(StrEnum):
    """What a field holds."""

    TEXT = "text"
    SET = "set"
    TIME = "time"
    YES_NO = "yes or no"
    VALUE = "value"


ATTRIBUTES = "attributes."
FIELDS = {
    "name": Form.TEXT,
    "display_name": Form.TEXT,
    "type": Form.TEXT,
    "site": Form.TEXT,
    "state": Form.TEXT,
    "notes": Form.TEXT,
    "tag": Form.SET,
    "group": Form.SET,
    "created": Form.TIME,
    "updated": Form.TIME,
    "last_seen": Form.TIME,
    "last_data": Form.TIME,
    "certificate_expires": Form.TIME,
    "connected": Form.YES_NO,
    "condition": Form.SET,
}
"""Beside these, `attributes.KEY`: a value."""


@dataclass(frozen=True, slots=True)
class Term:
    """A field compared with a value: microseconds since 1970-01-01 UTC for a time, a bool for yes or no, else text.

    Unquoted, a `*` in a text stands for any text, and a text that is a number means the number too.
    """

    field: str
    op: Op
    value: str | int | bool
    quoted: bool
    column: int


@dataclass(frozen=True, slots=True)
class Not:
    """What the part does not match."""

    part: "Query"


@dataclass(frozen=True, slots=True)
class And:
    """What all parts match; without parts, everything."""

    parts: "tuple[Query, ...]" = ()


@dataclass(frozen=True, slots=True)
class Or:
    """What at least one part matches."""

    parts: "tuple[Query, ...]"


Query = Term | Not | And | Or

EVERYTHING: Query = And()
"""Finds all."""
