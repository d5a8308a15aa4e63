"""The revocation list of our own certificate authority, for others to read: made when it is asked for."""

import asyncio
from datetime import UTC, datetime, timedelta

from cryptography import x509

from fleet.authority import Authority
from fleet.registry import Certificate, CertificateStatus, Member, Registry
from ingester.clock import Clock, now_us

_FRESH = timedelta(days=1)
_ENDED = frozenset({CertificateStatus.REVOKED, CertificateStatus.DELETED})


class RevokedList:
    """Certificates that the authority issued, and that are revoked, or whose device was deleted."""

    def __init__(self, authority: Authority, registry: Registry, clock: Clock = now_us) -> None:
        self._authority = authority
        self._registry = registry
        self._clock = clock
        self._making = asyncio.Lock()
        self._made: x509.CertificateRevocationList | None = None
        self._root: x509.CertificateRevocationList | None = None
        self._changes = 0
        registry.changed.append(self._changed)

    async def get(self) -> x509.CertificateRevocationList:
        """The list as of now, signed anew when something changed, and each day."""
        async with self._making:
            now, made = self._now(), self._made
            if made is None or not _is_fresh(made, now):
                changes = self._changes
                made = await asyncio.to_thread(self._make, self._registry.all()[1], now)
                self._made = made if changes == self._changes else None
            return made

    async def get_all(self) -> list[x509.CertificateRevocationList]:
        """The list, and the root's, where its key is here."""
        own = await self.get()
        async with self._making:
            now = self._now()
            if self._root is None or not _is_fresh(self._root, now):
                self._root = await asyncio.to_thread(self._authority.root_revocation_list, now)
            return [own] if self._root is None else [own, self._root]

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock() / 1e6, UTC)

    def _make(self, certificates: list[Certificate], now: datetime) -> x509.CertificateRevocationList:
        issuer = self._authority.key_id
        ended = (entry for entry in certificates if entry.status in _ENDED and entry.issuer == issuer)
        return self._authority.revocation_list(
            ((int(entry.serial, 16), datetime.fromtimestamp(entry.changed // 1_000_000, UTC)) for entry in ended), now
        )

    def _changed(self, _member: Member) -> None:
        self._made = None
        self._changes += 1


def _is_fresh(made: x509.CertificateRevocationList, now: datetime) -> bool:
    return made.last_update_utc <= now < made.last_update_utc + _FRESH
