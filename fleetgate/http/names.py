"""Names in paths, and the answer to their deletion."""

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, BeforeValidator, Field
from pydantic.config import JsonDict

from fleet.registry.details import MAX_ATTRIBUTES

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"
"""What names look like, in the OpenAPI document: the services say what is wrong with one."""
WORD_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9._:@-]{0,127})?$"
"""The same of a name that may be empty."""
TIME_PATTERN = (
    r"^(-[1-9][0-9]{0,5}[smhdw]"
    r"|(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?Z)$"
)
"""The usual ways to write a time: ISO 8601, or how long ago."""
DURATION_PATTERN = r"^[1-9][0-9]{0,5}[smhdw]$"
BASE64_PATTERN = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def looks_like(pattern: str) -> JsonDict:
    """For the OpenAPI document: what a text looks like."""
    return {"pattern": pattern}


KEYS: JsonDict = {"propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,63}$"}, "maxProperties": MAX_ATTRIBUTES}
"""For the OpenAPI document: keys of attributes."""


def _not_a_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("neither true nor false is a number")  # noqa: TRY004 - what pydantic makes an answer of
    return value


_LEAST, _MOST = -(2**63), 2**63 - 1
Whole = Annotated[int, BeforeValidator(_not_a_bool), Field(ge=_LEAST, le=_MOST)]
"""A whole number of 64 bits, as JSON Schema has it: 1.0 is one, true is none."""
Id = Annotated[int, Field(ge=0, le=_MOST)]
"""A number that the database has given."""
Name = Annotated[str, Path(max_length=128)]
NewName = Annotated[str, Field(json_schema_extra=looks_like(NAME_PATTERN))]


class Deleted(BaseModel):
    """What was deleted."""

    name: str


From = Annotated[
    str | None, Query(alias="from", description="ISO 8601 or -1h", json_schema_extra=looks_like(TIME_PATTERN))
]
To = Annotated[str | None, Query(alias="to", description="ISO 8601 or -1h", json_schema_extra=looks_like(TIME_PATTERN))]
