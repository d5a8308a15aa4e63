"""Bytes in JSON."""

import base64
import binascii

from fleetgate.errors import ArgumentError


def decode_base64(text: str, name: str) -> bytes:
    """Bytes of base64 text. Raises ArgumentError, which names the argument."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ArgumentError(f"{name}: not base64") from None
