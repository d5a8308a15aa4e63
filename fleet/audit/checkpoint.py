"""Checkpoints: the end of an audit log, signed by the certificate authority, as a document that can be kept elsewhere.

The signature is that of a certificate [RFC 5280, 4.1.1.3]: ECDSA or RSA (PKCS #1 1.5) with the authority's hash, or
Ed25519.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from fleet.audit.model import End
from fleet.authority.chain import constraints_of, is_signed_by
from fleet.authority.keys import verify
from fleet.certificates import from_pem
from fleet.errors import FleetError

_KEYS = ("seq", "hash", "at", "signature", "signer")


class CheckpointError(FleetError):
    """A checkpoint that does not hold, and why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The end of a log, at a time in microseconds, with the signer's certificate."""

    end: End
    at: int
    signature: bytes
    signer: x509.Certificate

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "seq": self.end.seq,
            "hash": self.end.hash,
            "at": self.at,
            "signature": base64.b64encode(self.signature).decode(),
            "signer": self.signer.public_bytes(Encoding.PEM).decode(),
        }

    def check(self, roots: Sequence[x509.Certificate]) -> None:
        """Raise CheckpointError unless it was signed by one of the roots, or by who has a certificate of one."""
        constraints = constraints_of(self.signer)
        known = self.signer in roots or any(is_signed_by(self.signer, root) for root in roots)
        if not known or constraints is None or not constraints.ca:
            raise CheckpointError("checkpoint: it was signed by who is no authority here")
        try:
            verify(self.signer.public_key(), self.signature, signed_bytes(self.end, self.at))
        except InvalidSignature:
            raise CheckpointError("checkpoint: its signature does not hold") from None


def signed_bytes(end: End, at: int) -> bytes:
    """What is signed."""
    return b"fleetgate audit log\n%d\n%s\n%d\n" % (end.seq, end.hash.encode(), at)


def read_checkpoint(document: Mapping[str, Any]) -> Checkpoint:
    """Read what `document` made. Raises CheckpointError."""
    try:
        return Checkpoint(
            End(int(document["seq"]), bytes.fromhex(document["hash"]).hex()),
            int(document["at"]),
            base64.b64decode(document["signature"], validate=True),
            from_pem(document["signer"].encode())[0],
        )
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise CheckpointError(f"checkpoint: not one with {', '.join(_KEYS)}") from None
