"""What devices and applications may be called. Pure."""

import re

from fleet.errors import InvalidNameError

MAX_LENGTH = 128
_is_name = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:@-]{{0,{MAX_LENGTH - 1}}}").fullmatch


def is_name(name: str) -> bool:
    """Whether `name` can be a device's or an application's: nothing in it means anything in topics or labels."""
    return _is_name(name) is not None


def check_name(name: str) -> str:
    """Return `name`; raises InvalidNameError when it can't be one."""
    if not is_name(name):
        raise InvalidNameError(
            f"{name[:200]!r} is not a device name: 1 to {MAX_LENGTH} of A-Z a-z 0-9 . _ : @ -,"
            " the first a letter or digit"
        )
    return name
