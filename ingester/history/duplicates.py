"""Readings of one device, stream and time: kept, merged into the first one, or all but the first one dropped. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from ingester.history.rules import Rules
from ingester.store import Row


def resolve_rows(rows: list[Row], rules: Rules) -> list[Row]:
    """Rows in the order of time, all of one time among them, as the rules of their streams want them."""
    return _resolve(rows, [(row.device, row.stream, row.found_at) for row in rows], rules) if rules.resolves else rows


def resolve_readings(readings: list[Any], rules: Rules) -> list[Any]:
    """The same for readings on their way into files, in the order of receipt."""
    if not rules.resolves:
        return readings
    return _resolve(readings, [(reading.device, reading.stream, reading.time) for reading in readings], rules)


def _resolve(found: Sequence[Any], keys: Iterable[tuple[str, str, int]], rules: Rules) -> list[Any]:
    kept: list[Any] = []
    places: dict[tuple[str, str, int], int] = {}
    policies: dict[str, str] = {}
    for one, key in zip(found, keys, strict=True):
        policy = policies.get(key[1])
        if policy is None:
            policy = policies[key[1]] = rules.of(key[1]).duplicates or "keep"
        first = places.get(key) if policy != "keep" else None
        if first is None:
            places[key] = len(kept)
            kept.append(one)
        elif policy == "merge":
            before = kept[first]
            marks = (*before.marks, *(mark for mark in one.marks if mark not in before.marks))
            kept[first] = before._replace(fields={**before.fields, **one.fields}, marks=marks)
    return kept
