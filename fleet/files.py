"""Files that are there whole or not at all, and secret ones readable by their owner only."""

import os
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Write a secret: mode 0600 from the first byte."""
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write what everybody may read: mode 0644."""
    _write(path, data, 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    if path.exists() and not path.is_file():  # a device or a pipe takes what is written; it must not be replaced
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk does not say where it is
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
