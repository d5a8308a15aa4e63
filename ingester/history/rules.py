"""What is said of the history of streams: by name, where a `*` stands for anything. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """For streams of these names. None: as it is for all."""

    names: str
    keep_payload: bool | None = None
    keep_days: float | None = None
    keep_bytes: int | None = None
    duplicates: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """A rule with the name of a stream goes before one with a `*`; of equal rules, the first one."""

    rules: Sequence[Rule] = ()
    keep_payload: bool = False
    keep_rollups_days: Mapping[str, float] = field(default_factory=dict)
    """By level; 0, or nothing: for ever."""

    def of(self, stream: str) -> Rule:
        """The rules in effect for a stream; a key that one rule leaves out comes from the next."""
        found = sorted((rule for rule in self.rules if _pattern(rule.names).fullmatch(stream)), key=_vagueness)

        def first(key: str) -> Any:
            return next((said for rule in found if (said := getattr(rule, key)) is not None), None)

        return Rule(
            stream, first("keep_payload"), first("keep_days"), first("keep_bytes"), first("duplicates") or "keep"
        )

    @property
    def resolves(self) -> bool:
        """Whether anything becomes of duplicates of any stream."""
        return any(rule.duplicates not in {None, "keep"} for rule in self.rules)

    def keeps_payload(self, stream: str) -> bool:
        """Whether the payloads of its messages are kept as they came."""
        said = self.of(stream).keep_payload
        return self.keep_payload if said is None else said


def _vagueness(rule: Rule) -> tuple[int, int]:
    return rule.names.count("*"), -len(rule.names)


@cache
def _pattern(names: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, names.split("*"))), re.DOTALL)
