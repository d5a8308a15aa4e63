"""A plain number or text: the field `value`."""

import re

from ingester.codecs.model import Codec, Context, Options, Parsed, finite, integer
from ingester.decode import DecodeError

_INTEGER = re.compile(r"[+-]?\d{1,20}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NO_NUMBER = {"nan", "inf", "infinity"}
_SWITCH = {"true": True, "false": False}


class _Text:
    def parse(self, payload: bytes, _context: Context) -> list[Parsed]:
        try:
            text = payload.decode().strip()
        except UnicodeDecodeError as bad:
            raise DecodeError("utf8", f"byte {bad.start} is not UTF-8") from None
        if not text:
            raise DecodeError("empty", "no payload")
        return [Parsed(None, {"value": _value(text)})]


def _value(text: str) -> bool | float | str:
    if _INTEGER.fullmatch(text):
        return integer(int(text))
    if _NUMBER.fullmatch(text):
        return finite(float(text))
    if text.lower().lstrip("+-") in _NO_NUMBER:
        raise DecodeError("nan", f"{text} is not a number that can be kept")
    return _SWITCH.get(text.lower(), text)


def make(_options: Options) -> Codec:
    """Build the codec; it has no options."""
    return _Text()
