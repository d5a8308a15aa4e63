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


PAYLOAD = b'{"ts":%d,"seq":%d,"temperature":21.53,"humidity":44.1,"battery":3.71,"state":"ok","rssi":-71}'
"""A reading of about 100 bytes of JSON, without its time (milliseconds) and number."""


def payload(number: int, ts_ms: int) -> bytes:
    """A reading of about 100 bytes of JSON."""
    return PAYLOAD % (ts_ms, number)


def memory_bytes(pid: int) -> int:
    """Memory that a process has in use."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
