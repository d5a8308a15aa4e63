"""Text in the order that versions have: 1.9 before 1.10, 1.4.0-rc1 before 1.4.0. Pure."""

import re

_PARTS = re.compile(r"(\d+)|(-)|([^\d-]+)", re.ASCII)
_BEFORE_THE_END, _END = "\x01", "\x02"
_leading_v = re.compile(r"[vV](?=[0-9])").match


def sort_key(text: str) -> str:
    """A text whose plain order is the order of versions.

    Numbers count by their value, and what follows a hyphen comes before the same without it [semver.org, 11]. A `v`
    before the first number means nothing.
    """
    start = 1 if _leading_v(text) else 0
    return "".join(map(_part, _PARTS.finditer(text, start))) + _END


def _part(found: re.Match[str]) -> str:
    digits, hyphen, other = found.groups()
    if digits is not None:
        value = digits.lstrip("0") or "0"
        return f"{len(value):04}{value}"  # more digits, greater number
    return _BEFORE_THE_END if hyphen is not None else str(other)
