"""Payload formats, one a file; pure. A new one is a file, and a line in the table."""

from collections.abc import Callable, Mapping

from ingester.codecs import binary, call, cbor, compressed, json, line, msgpack, protobuf, senml, sparkplug, text
from ingester.codecs.model import Codec, Context, OptionError, Options, Parsed, Unpacker

CODECS: Mapping[str, Callable[[Options], Codec]] = {
    "json": json.make,
    "cbor": cbor.make,
    "msgpack": msgpack.make,
    "senml+json": senml.make,
    "senml+cbor": senml.make_cbor,
    "line": line.make,
    "sparkplug": sparkplug.make,
    "protobuf": protobuf.make,
    "binary": binary.make,
    "text": text.make,
    "python": call.make,
}
UNPACKERS: Mapping[str, Callable[[], Unpacker]] = {"gzip": compressed.make_gzip, "zstd": compressed.make_zstd}

CONTENT_TYPES: Mapping[str, str] = {
    "application/json": "json",
    "application/cbor": "cbor",
    "application/msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
    "application/senml+json": "senml+json",
    "application/senml+cbor": "senml+cbor",
    "application/vnd.influx.line-protocol": "line",
    "text/plain": "text",
}
"""What MQTT 5's content type chooses; a type that is not here leaves it to the stream."""

__all__ = ["CODECS", "CONTENT_TYPES", "UNPACKERS", "Codec", "Context", "OptionError", "Options", "Parsed", "Unpacker"]
