"""A plain number or text: the field `value`.

Without a type, what is written as JSON writes a number, without an exponent, is one, and so are true and false; all
else stays text: an RFID such as 12e45678 and a serial number such as 0004512345 are names, not numbers.
"""

import re
from collections.abc import Callable, Mapping

from ingester.codecs.model import Codec, Context, OptionError, Options, Parsed, finite, integer
from ingester.decode import DecodeError

_integer = re.compile(r"-?(?:0|[1-9][0-9]{0,19})").fullmatch
_decimal = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?").fullmatch
_any_integer = re.compile(r"[+-]?[0-9]{1,100}").fullmatch
_any_number = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_NO_NUMBER = {"nan", "inf", "infinity"}
_SWITCH = {"true": True, "false": False}
_SWITCHES = {**_SWITCH, "1": True, "0": False, "on": True, "off": False, "yes": True, "no": False}


class _Text:
    def __init__(self, read: Callable[[str], bool | float | str]) -> None:
        self._read = read

    def parse(self, payload: bytes, _context: Context) -> list[Parsed]:
        try:
            text = payload.decode()
        except UnicodeDecodeError as bad:
            raise DecodeError("utf8", f"byte {bad.start} is not UTF-8") from None
        if not text.strip():
            raise DecodeError("empty", "no payload")
        return [Parsed(None, {"value": self._read(text)})]


def _auto(text: str) -> bool | float | str:
    text = text.strip()
    if _integer(text):
        return integer(int(text))
    if _decimal(text):
        return finite(float(text))
    if text.lower().lstrip("+-") in _NO_NUMBER:
        raise DecodeError("nan", f"{text} is not a number that can be kept")
    return _SWITCH.get(text.lower(), text)


def _number(text: str) -> float:
    text = text.strip()
    if _any_integer(text):
        return integer(int(text))
    if _any_number(text):
        return finite(float(text))
    if text.lower().lstrip("+-") in _NO_NUMBER:
        raise DecodeError("nan", f"{text} is not a number that can be kept")
    raise DecodeError("codec", f"{text[:100]!r} is not a number")


def _boolean(text: str) -> bool:
    found = _SWITCHES.get(text.strip().lower())
    if found is None:
        raise DecodeError("codec", f"{text.strip()[:100]!r} is not one of {', '.join(_SWITCHES)}")
    return found


VALUE_TYPES: Mapping[str, Callable[[str], bool | float | str]] = {
    "auto": _auto,
    "text": lambda text: text,
    "number": _number,
    "boolean": _boolean,
}
"""Values of `value_type`."""


def make(options: Options) -> Codec:
    """Build the codec. Raises OptionError."""
    if options.value_type not in VALUE_TYPES:
        raise OptionError(f"value_type: {options.value_type!r} is not one of {', '.join(VALUE_TYPES)}")
    return _Text(VALUE_TYPES[options.value_type])
