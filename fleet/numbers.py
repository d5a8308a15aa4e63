"""Numbers as people write them in documents, lists and queries. Pure."""

import re
from math import isfinite

_is_integer = re.compile(r"[+-]?[0-9]{1,300}").fullmatch
_is_decimal = re.compile(r"[+-]?(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})(?:[eE][+-]?[0-9]{1,5})?").fullmatch


def number_of(text: str) -> int | float | None:
    """A decimal number, None for any other text: `nan` and `inf`, 1_000, digits of other scripts, blanks around it."""
    if _is_integer(text):
        return int(text)
    if _is_decimal(text) and isfinite(found := float(text)):
        return found
    return None
