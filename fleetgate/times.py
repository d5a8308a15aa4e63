"""Times and durations as people write them, and as we print them. Inside, microseconds since 1970-01-01 UTC."""

import re
from datetime import UTC, datetime, timedelta

from fleetgate.errors import ArgumentError
from ingester.clock import UNIT_US
from ingester.decode import DecodeError, iso_us

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_duration = re.compile(r"(\d{1,9})([smhdw])").fullmatch


def iso(time_us: int) -> str:
    """ISO 8601 in UTC, with Z."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat().removesuffix("+00:00") + "Z"


def parse_duration(text: str, name: str) -> int:
    """`30s`, `1m`, `2h`, `7d`, `1w` in microseconds. Raises ArgumentError that names the argument."""
    if not (found := _duration(text)) or int(found[1]) == 0:
        raise ArgumentError(f"{name}: {text!r} is not a duration such as 30s, 1m, 2h or 7d")
    return int(found[1]) * UNIT_US[found[2]]


def parse_time(text: str, name: str, now_us: int) -> int:
    """ISO 8601 (UTC where no offset is given), or `-1h` for an hour ago. Raises ArgumentError."""
    if text.startswith("-"):
        return now_us - parse_duration(text[1:], name)
    try:
        return iso_us(text)
    except DecodeError:
        raise ArgumentError(f"{name}: {text!r} is neither ISO 8601 nor a time ago such as -1h") from None
