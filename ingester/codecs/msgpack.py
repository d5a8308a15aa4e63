"""MessagePack: a map, or an array of maps."""

from typing import Any, NoReturn

import msgpack

from ingester.codecs.model import Codec, Context, Options, Parsed, objects
from ingester.decode import DecodeError


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    try:
        found = dict(pairs)
    except TypeError:
        raise DecodeError("codec", "a name that is no text") from None
    if len(found) != len(pairs):
        raise DecodeError("duplicate_key", "a name twice in one map")
    return found


def _refuse(code: int, _data: bytes) -> NoReturn:
    raise DecodeError("codec", f"an extension of type {code}, which no reading needs")


class _MessagePack:
    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        if not payload:
            raise DecodeError("empty", "no payload")
        try:
            value = msgpack.unpackb(
                payload, strict_map_key=False, object_pairs_hook=_unique, ext_hook=_refuse, timestamp=3
            )
        except DecodeError:
            raise
        except msgpack.exceptions.ExtraData as error:
            raise DecodeError("codec", f"{len(error.extra)} bytes behind the MessagePack value") from None
        except msgpack.exceptions.StackError:
            raise DecodeError("depth", "nested too deep") from None
        except (ValueError, OverflowError, TypeError, RecursionError, MemoryError) as error:
            raise DecodeError("codec", f"not MessagePack: {str(error)[:150]}") from None
        return objects(value, "a map", context.limits.max_depth)


def make(_options: Options) -> Codec:
    """Build the codec; it has no options."""
    return _MessagePack()
