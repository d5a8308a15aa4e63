"""Names in paths, and the answer to their deletion."""

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel

Name = Annotated[str, Path(max_length=128)]


class Deleted(BaseModel):
    """What was deleted."""

    name: str
