"""Exports of the audit log, verified without the log: JSON lines with an entry and its hash, the last one with a
checkpoint.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from cryptography import x509

from fleet.audit.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from fleet.audit.model import Checking, Entry, Fault, Wrong, number_of


def verify_export(
    lines: Iterable[bytes], roots: Sequence[x509.Certificate], known: Sequence[Checkpoint] = ()
) -> tuple[int, Fault | None]:
    """How many entries are as they were written, and the first fault. `known`: checkpoints that were kept elsewhere.

    Raises CheckpointError for one of those that does not hold.
    """
    for point in known:
        point.check(roots)
    checking, lines = Checking(point.end for point in known), iter(lines)
    signed: Checkpoint | None = None
    for line in lines:
        fault, found = _check_line(line, checking, roots)
        if fault is not None and fault.wrong is Wrong.REMOVED and any(_number_in(rest) == fault.seq for rest in lines):
            fault = Fault(fault.seq, Wrong.REORDERED, f"entry {fault.seq} is not at its place")
        if fault is not None:
            return checking.end.seq, fault
        signed = found or signed
    return checking.end.seq, checking.finish(signed.end if signed is not None else None)


def _number_in(line: bytes) -> int | None:
    try:
        return number_of(orjson.loads(line)["entry"])
    except (ValueError, KeyError, TypeError):
        return None


def _check_line(
    line: bytes, checking: Checking, roots: Sequence[x509.Certificate]
) -> tuple[Fault | None, Checkpoint | None]:
    due = checking.end.seq + 1
    try:
        found: dict[str, Any] = orjson.loads(line)
        if "checkpoint" in found:
            point = read_checkpoint(found["checkpoint"])
            point.check(roots)
            return None, point
        said = orjson.loads(found["entry"])
        entry = Entry(int(said["seq"]), int(said["at"]), found["entry"], str(found["hash"]))
    except CheckpointError as error:
        return Fault(checking.end.seq, Wrong.END, str(error)), None
    except (ValueError, KeyError, TypeError):
        return Fault(due, Wrong.ALTERED, f"entry {due} can't be read"), None
    return checking.check([entry]), None
