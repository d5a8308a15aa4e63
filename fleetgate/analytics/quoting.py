"""Quoting of any name and text for SQL. Pure."""

import string
from collections.abc import Collection, Iterable, Sequence

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def is_nameable(name: str) -> bool:
    """Whether a view or column can have this name: not the empty one, and none with U+0000 or half a character."""
    return bool(name) and "\0" not in name and (name.isascii() or _is_whole(name))


def quoted_name(name: str) -> str:
    """A name of a column, view or table, which `is_nameable`."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text. U+0000 would end the statement, and is put in by a function."""
    parts = ["'" + part.replace("'", "''") + "'" for part in text.split("\0")]
    return parts[0] if len(parts) == 1 else f"({' || chr(0) || '.join(parts)})"


def quoted_pointer(key: str) -> str:
    """The JSON pointer (RFC 6901) of a key at the top of an object: a path would read "*" as any key."""
    return quoted_text("/" + key.replace("~", "~0").replace("/", "~1"))


def folded(name: str) -> str:
    """The form in which DuckDB compares names: ASCII letters without regard to case, all others unchanged."""
    return name.translate(_LOWER)


def unique_names(names: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """A name for each, unlike all others and unlike those `taken` (folded).

    Of names that DuckDB takes for one, the first by code points stays as it is; the others get _2, _3 and so on.
    """
    ordered = sorted(set(names))
    used = set(taken)
    found: dict[str, str] = {}
    for name in ordered:
        if folded(name) not in used:
            used.add(folded(name))
            found[name] = name
    count: dict[str, int] = {}
    for name in ordered:
        if name in found:
            continue
        number = count.get(folded(name), 1) + 1
        while folded(free := f"{name}_{number}") in used:
            number += 1
        count[folded(name)] = number
        used.add(folded(free))
        found[name] = free
    return found


def numbered(names: Sequence[str]) -> list[str]:
    """Names of a result's columns in their order; one that was there before gets _2, _3 and so on."""
    used = set(names)
    seen: dict[str, int] = {}
    found = []
    for name in names:
        number = seen.get(name, 0) + 1
        free = name
        if number > 1:
            while (free := f"{name}_{number}") in used:
                number += 1
            used.add(free)
        seen[name] = number
        found.append(free)
    return found


def mentioned_names(names: Iterable[str], sql: str, most: int) -> list[str]:
    """The names that a statement may mean, in any case: at most `most`, the longest first."""
    text = folded(sql)
    found = [name for name in names if folded(name).replace('"', '""') in text]
    return sorted(found, key=lambda name: (-len(name), name))[:most]


def _is_whole(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)
