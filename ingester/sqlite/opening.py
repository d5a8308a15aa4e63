"""SQLite files as they are, opened by somebody who only reads."""

import sqlite3
from pathlib import Path


def read_only(path: Path, seconds: float = 5) -> sqlite3.Connection:
    """Open a file that is there, whatever its path; waits so long for who writes. Raises sqlite3.Error."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=seconds)
