"""What was measured on, and CPU time of processes."""

import os
import platform
import sqlite3
from pathlib import Path


def describe() -> str:
    """One line about this machine."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def payload(number: int, ts_ms: int) -> bytes:
    """A reading of about 100 bytes of JSON."""
    return b'{"ts":%d,"seq":%d,"temperature":21.53,"humidity":44.1,"battery":3.71,"state":"ok","rssi":-71}' % (
        ts_ms,
        number,
    )
