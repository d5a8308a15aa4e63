"""Entries of the audit log, the chain of their hashes, and what is wrong with a chain. Pure.

The hash of an entry is SHA-256 of the hash before it and of the entry as JSON, with sorted keys and no spaces; before
the first one it is 64 zeros. Whoever changes an entry, takes one out or moves it has to make all hashes behind it
anew; the hash at the end is signed by the certificate authority.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

import orjson

FIRST = "0" * 64
"""What is before the first entry."""
BACKWARDS_US = 5_000_000
"""A clock that goes back by less is one that was set right."""
MAX_TARGETS = 10_000
MAX_TEXT = 1024
_LEAST, _MOST = -(2**63), 2**64 - 1
"""Whole numbers that JSON is written with here."""


class Outcome(StrEnum):
    """What came of an action."""

    DONE = "done"
    REFUSED = "refused"
    """Whoever wanted it may not."""
    FAILED = "failed"
    """It could not be done; `code` is that of the problem."""
    INTERRUPTED = "interrupted"
    """The process came to its end meanwhile: some of it may be done."""


class Via(StrEnum):
    """How it was asked for."""

    API = "api"
    CLI = "cli"
    CONSOLE = "console"
    RULE = "rule"


Target = tuple[str, str]
"""Kind and name of what something is done to: ("device", "pump-1")."""


@dataclass(frozen=True, slots=True)
class Act:
    """Who does what to whom. `credential` is what the actor is known by, `address` where it comes from."""

    actor: str
    action: str
    via: Via
    credential: str = ""
    address: str = ""
    targets: tuple[Target, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, as JSON values: nothing secret."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. `before` and `after` have what is different, as JSON values."""

    outcome: Outcome
    code: str = ""
    detail: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the log: number `seq`, from 1, at a time in microseconds; `text` is its JSON, which has both too."""

    seq: int
    at: int
    text: str
    hash: str

    @property
    def said(self) -> dict[str, Any]:
        """What it says."""
        found: dict[str, Any] = orjson.loads(self.text)
        return found


@dataclass(frozen=True, slots=True)
class End:
    """The end of a chain: how many entries, and the hash of the last one."""

    seq: int = 0
    hash: str = FIRST


class Wrong(StrEnum):
    """What can be wrong with a log."""

    ALTERED = "altered"
    REMOVED = "removed"
    REORDERED = "reordered"
    CLOCK = "clock_rolled_back"
    END = "end"
    """What is signed is not the end that is there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first bad entry, and what is wrong with it."""

    seq: int
    wrong: Wrong
    detail: str


def entry_of(end: End, at: int, act: Act, result: Result) -> Entry:
    """The entry behind the end of a chain."""
    said: dict[str, Any] = {
        "seq": end.seq + 1,
        "at": at,
        "actor": act.actor,
        "action": act.action,
        "via": act.via.value,
        "credential": act.credential,
        "address": act.address,
        "targets": [list(target) for target in act.targets[:MAX_TARGETS]],
        "outcome": result.outcome.value,
    }
    more = {
        "facts": dict(act.facts) or None,
        "code": result.code or None,
        "detail": result.detail[:MAX_TEXT] or None,
        "before": result.before,
        "after": result.after,
        "targets_total": len(act.targets) if len(act.targets) > MAX_TARGETS else None,
    }
    said |= {key: value for key, value in more.items() if value is not None}
    text = orjson.dumps(cleaned(said), option=orjson.OPT_SORT_KEYS).decode()
    return Entry(end.seq + 1, at, text, hash_of(end.hash, text))


def cleaned(value: Any) -> Any:
    """A JSON value that can be written anywhere: what is no Unicode, and NUL, is replaced; larger numbers are texts."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    if isinstance(value, Mapping):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        return str(value)
    return value


def hash_of(before: str, text: str) -> str:
    """The hash of an entry, from that of the entry before."""
    return sha256(bytes.fromhex(before) + text.encode()).hexdigest()


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is different, as it was and as it is."""
    return (
        {key: value for key, value in before.items() if key not in after or after[key] != value},
        {key: value for key, value in after.items() if key not in before or before[key] != value},
    )


def number_of(text: str) -> int | None:
    """Which entry it says that it is; None: it can't be read."""
    try:
        found = orjson.loads(text)["seq"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


class Checking:
    """Follows a chain from its first entry; `check` may be called again and again. `known`: ends of it that were kept
    elsewhere.
    """

    def __init__(self, known: Iterable[End] = ()) -> None:
        self.end = End()
        self._at = 0
        self._known = {end.seq: end.hash for end in known}

    def check(self, entries: Sequence[Entry]) -> Fault | None:
        """Look at the next entries; the first fault, if there is one."""
        for entry in entries:
            if (fault := self._check(entry)) is not None:
                return fault
            self.end, self._at = End(entry.seq, entry.hash), entry.at
        return None

    def _check(self, entry: Entry) -> Fault | None:
        due = self.end.seq + 1
        if (fault := self._check_place(entry, due)) is not None:
            return fault
        if hash_of(self.end.hash, entry.text) != entry.hash or entry.said["at"] != entry.at:
            return Fault(due, Wrong.ALTERED, f"entry {due} is not what its hash was made of")
        if self._known.get(due, entry.hash) != entry.hash:
            return Fault(due, Wrong.ALTERED, f"entry {due} is not the one that the checkpoint knows")
        if entry.at < self._at - BACKWARDS_US:
            back = (self._at - entry.at) / 1e6
            return Fault(due, Wrong.CLOCK, f"entry {due} says that it was made {back:.0f} s before entry {due - 1}")
        return None

    def _check_place(self, entry: Entry, due: int) -> Fault | None:
        number = number_of(entry.text)
        if entry.seq > due:
            return Fault(due, Wrong.REMOVED, f"entry {due} is missing: the next one is {entry.seq}")
        if entry.seq < due:
            return Fault(entry.seq, Wrong.REORDERED, f"entry {entry.seq} comes where {due} is due")
        if number not in {None, due}:
            return Fault(due, Wrong.REORDERED, f"entry {due} was made as entry {number}")
        return None

    def finish(self, signed: End | None) -> Fault | None:
        """Whether the chain ends where its signed end is, and has all that is known. None: nothing is signed."""
        if signed is None and self.end.seq:
            return Fault(self.end.seq, Wrong.END, "the end of the log is not signed")
        signed = signed or End()
        if signed.seq > self.end.seq:
            due = self.end.seq + 1
            return Fault(due, Wrong.REMOVED, f"entry {due} is missing: {signed.seq} entries were signed for")
        if signed.seq < self.end.seq:
            return Fault(signed.seq + 1, Wrong.END, f"entry {signed.seq + 1} is behind the end that was signed for")
        if signed != self.end:
            return Fault(signed.seq, Wrong.ALTERED, f"entry {signed.seq} is not the one that was signed for")
        if (most := max(self._known, default=0)) > self.end.seq:
            return Fault(self.end.seq + 1, Wrong.REMOVED, f"a checkpoint knows {most} entries")
        return None
