"""CBOR (RFC 8949): a map, or an array of maps."""

from functools import partial
from io import BytesIO
from typing import Any, NoReturn

import cbor2

from ingester.codecs.model import Codec, Context, Options, Parsed, objects
from ingester.decode import DecodeError, Limits

_REFUSED_TAGS = (4, 5, 25, 28, 29, 30, 35, 36, 256, 258, 260, 261)
"""Decimal fractions, shared values, expressions and addresses: few bytes of them make much work, and no reading."""


def loads(payload: bytes, limits: Limits) -> Any:
    """Read one CBOR item, with nothing behind it. Raises DecodeError."""
    if not payload:
        raise DecodeError("empty", "no payload")
    stream = BytesIO(payload)
    try:
        decoder = cbor2.CBORDecoder(
            stream, max_depth=limits.max_depth + 1, allow_duplicate_keys=False, semantic_decoders=_REFUSING
        )
        value = decoder.decode()
        rest = len(payload) - stream.tell()
    except cbor2.CBORDecodeError as error:
        raise _named(error) from None
    if rest:
        raise DecodeError("codec", f"{rest} bytes behind the CBOR item")
    return value


def _named(error: cbor2.CBORDecodeError) -> DecodeError:
    if isinstance(error.__cause__, DecodeError):
        return error.__cause__
    text = str(error)
    if "depth" in text:
        return DecodeError("depth", text)
    if "uplicate" in text:
        return DecodeError("duplicate_key", text[:150])
    return DecodeError("codec", f"not CBOR: {text[:150]}")


def _refuse(tag: int, _value: Any, _immutable: bool) -> NoReturn:
    raise DecodeError("codec", f"CBOR tag {tag}, which no reading needs")


_REFUSING = {tag: partial(_refuse, tag) for tag in _REFUSED_TAGS}


class _Cbor:
    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        return objects(loads(payload, context.limits), "a map", context.limits.max_depth)


def make(_options: Options) -> Codec:
    """Build the codec; it has no options."""
    return _Cbor()
