"""JSON: an object, or an array of objects."""

from ingester.codecs.model import Codec, Context, Options, Parsed
from ingester.decode import parse


class _Json:
    def parse(self, payload: bytes, context: Context) -> list[Parsed]:
        return [Parsed(None, item) for item in parse(payload, context.limits)]


def make(_options: Options) -> Codec:
    """Build the codec; it has no options."""
    return _Json()
