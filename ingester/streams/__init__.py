"""Streams: which messages are telemetry of which device and stream, and how they are read."""

from ingester.streams.definition import Definition, StreamError
from ingester.streams.table import Destination, Streams

__all__ = ["Definition", "Destination", "StreamError", "Streams"]
