"""Files that commands read: whatever is in them, the command goes on or says in one line why it does not."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fleet.authority import read_request
from fleet.authority.chain import pem_of
from fleet.certificates import from_file
from fleet.errors import InvalidCertificateError
from fleet.files import write_private, write_public
from fleet.names import check_name
from fleetgate.errors import ArgumentError

File = Annotated[Path, typer.Argument(help="The document, JSON or YAML; - for standard input.")]

_ROOM_BYTES = 64 * 1024
"""More than a key and the certificates above it take."""
_MOST_BYTES = 64 * 1024 * 1024
"""No file that is read whole has more; /dev/zero has no end."""


def read_bytes(file: Path, most: int = _MOST_BYTES) -> bytes:
    """The bytes of a file, `-` for standard input. Raises ArgumentError for more than `most`, OSError."""
    if str(file) == "-":
        data = sys.stdin.buffer.read(most + 1)
    else:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    if len(data) > most:
        raise ArgumentError(f"{file}: more than {most} bytes")
    return data


def read_text(file: Path) -> str:
    """The text of a file, UTF-8 with or without a mark at its beginning. Raises ArgumentError, OSError."""
    try:
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ArgumentError(f"{file}: not UTF-8") from None


def read_json(file: Path) -> Any:
    """The JSON in a file. Raises ArgumentError, OSError."""
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"{file}: not JSON: {error}") from None


def read_document(file: Path, check: Callable[[str], object]) -> str:
    """The text of a document; what is wrong with it is said before anything is asked for. Raises ArgumentError."""
    text = read_text(file)
    check(text)
    return text


def read_chain(file: Path) -> Sequence[x509.Certificate]:
    """The certificates in a file, PEM, or one in DER form. Raises ArgumentError, OSError."""
    try:
        return from_file(read_bytes(file))
    except ValueError as error:
        raise ArgumentError(f"{file}: not a readable PEM certificate, nor one in DER form: {error}") from None


@contextmanager
def credentials(out: Path, name: str, key: bytes | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Files of a new certificate in `out`. That they can be written is known before anything is registered: what is
    yielded writes them, from the answer, where room was kept for them. Raises ArgumentError, OSError.
    """
    check_name(name)
    key_file, public = out / f"{name}-key.pem", {"certificate": out / f"{name}.pem", "ca": out / "ca.pem"}
    out.mkdir(parents=True, exist_ok=True)
    for file in (key_file, *public.values()):
        if file.is_dir():
            raise ArgumentError(f"{file}: a folder has this name")
    room = out / f".{name}.new"

    def write(added: Mapping[str, Any]) -> None:
        room.unlink()
        if key is not None:
            write_private(key_file, key)
        for field, file in public.items():
            write_public(file, added[field].encode())

    try:
        write_private(room, b" " * _ROOM_BYTES)
        yield write
    finally:
        room.unlink(missing_ok=True)


def certificate_pem(file: Path) -> str:
    """As read_chain, as PEM text."""
    return pem_of(read_chain(file)).decode()


def request_pem(file: Path) -> str:
    """The signing request in a file, PEM or DER, as PEM text. Raises ArgumentError, OSError."""
    try:
        return read_request(read_bytes(file)).public_bytes(Encoding.PEM).decode()
    except InvalidCertificateError as error:
        raise ArgumentError(f"{file}: {error}") from None
