"""Documents that commands read."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fleetgate.errors import ArgumentError

File = Annotated[Path, typer.Argument(help="The document, JSON or YAML; - for standard input.")]


def read_document(file: Path, check: Callable[[str], object]) -> str:
    """The text of a document; what is wrong with it is said before anything is asked for. Raises ArgumentError."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ArgumentError(f"{file}: not UTF-8") from None
    check(text)
    return text
