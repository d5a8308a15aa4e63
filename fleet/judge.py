"""Certificates of clients, judged before the registry: at a connect, and wherever one is registered or checked.

Pure but for what it asks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fleet.errors import InvalidCertificateError
from fleet.identity import Identity, IdentityError, Kind, Rules, identify
from ingester.clock import Clock, now_us

Path = tuple[bytes, ...]
"""Certificates in DER form: the client's own is the first, each is signed by the next, the last is an authority in
effect. Only the client's own where a TLS session was resumed.
"""

_HINT = "append the intermediate certificates to its file, as the client sends them"

Verify = Callable[[Sequence[bytes]], Path]
"""The path that a handshake finds for certificates as a client sends them. Raises IdentityError."""

Revoked = Callable[[Path, datetime], None]
"""Raises IdentityError for a path with a certificate that is revoked, or whose revocation is unknown."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What decides about a certificate before the registry does, at a connect in this order: `verify`, identify,
    `revoked`.

    `rules_for` says where a certificate names its device.
    """

    verify: Verify
    rules_for: Callable[[bytes], Rules]
    revoked: Revoked
    clock: Clock = now_us

    def now(self) -> datetime:
        """Wall time, which certificates are judged by."""
        return datetime.fromtimestamp(self.clock() / 1e6, UTC)

    def identity(self, chain: Sequence[x509.Certificate]) -> Identity:
        """The identity of a client with these certificates, its own first. Raises IdentityError when there is none.

        What its own says of itself is looked at first: that is what its owner can change.
        """
        found = self._identify(chain)
        self._check_trust(chain)
        return found

    def check(self, chain: Sequence[x509.Certificate], kind: Kind, name: str) -> None:
        """Raise InvalidCertificateError for certificates that are to be registered, and would not be let in as this."""
        try:
            found = self._identify(chain)
            if (found.kind, found.name) != (kind, name):
                source = self.rules_for(ders(chain)[0]).source
                raise InvalidCertificateError(
                    f"by identity.source {source} this certificate belongs to {found.kind} {found.name}"
                )
            self._check_trust(chain)
        except IdentityError as error:
            detail = f"{error}; {_HINT}" if error.reason == "unknown_ca" and len(chain) == 1 else str(error)
            raise InvalidCertificateError(f"this certificate would be refused ({error.reason}): {detail}") from error

    def _identify(self, chain: Sequence[x509.Certificate]) -> Identity:
        own = ders(chain)[0]
        return identify(own, self.rules_for(own), self.now())

    def _check_trust(self, chain: Sequence[x509.Certificate]) -> None:
        self.revoked(self.verify(ders(chain)), self.now())


def ders(chain: Sequence[x509.Certificate]) -> Path:
    """Certificates in DER form."""
    return tuple(one.public_bytes(Encoding.DER) for one in chain)
