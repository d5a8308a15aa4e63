"""Certificates of the device listeners, read anew when a file changes, on SIGHUP and by the API."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import structlog
from cryptography import x509

from broker_plugins.engine.handshakes import TlsFiles, rehearse, why_failed
from fleet.authority import Authority
from fleet.authority.chain import pem_of
from fleet.certificates import from_file
from fleet.crl import RevocationList
from fleet.errors import FleetError
from fleet.files import write_public
from fleet.identity import IdentityError
from fleet.judge import Path as CertificatePath
from fleet.provisioning.authorities import Authorities
from fleet.revocation import RevocationListError, Revocations, files_of
from fleet.state import StateFolder
from fleetgate.errors import SettingsError
from fleetgate.settings import Settings
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate")

AUTHORITIES = "authorities.pem"
"""Certificates of the authorities that are registered, for OpenSSL to read."""
_LOOK_SECONDS = 0.5
_SETTLE_SECONDS = 0.1
"""A file that was written this short ago may not be whole: a part of it can look like all of it."""


Stamp = tuple[tuple[str, int, int], ...]
"""Name, time of change and size of each file: they differ after a change."""


class TlsReloadError(Exception):
    """New files can't be used; the ones before go on counting."""


class DeviceTls:
    """TLS context and revocation lists. An async context manager: looks for changed files while it is open.

    `reloaded` is called after new files were taken, to judge the connections that are there by them.
    """

    def __init__(
        self,
        settings: Settings,
        state: StateFolder,
        authority: Authority,
        registered: Authorities,
        background: Background | None = None,
    ) -> None:
        self._settings = settings
        self._authority = authority
        self._registered = registered
        self._registered_file = state.pki / AUTHORITIES
        tls, pki = settings.tls, state.pki
        self._other_ca = Path(tls.client_ca) if tls.client_ca else None
        self._crl = Path(tls.crl) if tls.crl else None
        if self._other_ca is not None and not self._other_ca.is_file():
            raise SettingsError(f"tls.client_ca: no file {self._other_ca}")
        cas = [
            pki / "ca.pem",
            pki / "issuing.pem",
            pki / AUTHORITIES,
            *([self._other_ca] if self._other_ca else []),
        ]
        try:
            self._write_registered()
            self.files = TlsFiles(pki / "server.pem", pki / "server-key.pem", cas)
            self.revocations = self._read_revocations()
        except (OSError, ValueError) as error:
            raise SettingsError(f"TLS files: {error}") from error
        self._crl_stamp: Stamp = ()
        self._paths: dict[bytes, CertificatePath] = {}
        """By the client's own certificate: what was verified, for those who resume their TLS session."""
        self.reloaded: list[Callable[[], None]] = []
        self._renewing = False
        self._refused = ""
        """The reason why the present files can't be used."""
        self._every = Every(
            "tls_files", _LOOK_SECONDS, self._watch, failures=(TlsReloadError,), later=True, background=background
        )

    async def __aenter__(self) -> Self:
        self._load_revocations()
        self._every.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.stop()

    def context(self) -> ssl.SSLContext:
        """The context for connections from now on."""
        return self.files.context

    def reload(self, read: Sequence[RevocationList] | None = None) -> None:
        """Read all files again, the server's certificate renewed where it is due; `read` are the revocation lists in
        them, where they are read already. Raises TlsReloadError.
        """
        try:
            self._authority.ensure_server(self._settings.tls.names)
            context, revocations = self.files.read(), self._read_revocations()
            revocations.load(read)
            self.files.context, self.revocations = context, revocations
        except (OSError, ValueError, FleetError) as error:
            raise TlsReloadError(f"TLS files not taken, those before go on counting: {error}") from error
        finally:
            self._crl_stamp = self._stamp()
        self._log_faults()
        log.info("TLS files read")
        for reloaded in self.reloaded:
            reloaded()

    async def renew(self) -> list[str]:
        """Make again what is due of our own certificates, for handshakes from now on: connections stay, as who is
        trusted does not change. Returns what was made. Raises FleetError, OSError.
        """
        self._renewing = True
        try:
            made = await asyncio.to_thread(self._authority.renew, self._settings.tls.names)
            if made:
                self.files.load()
        finally:
            self._renewing = False
        if made:
            log.info("certificates were renewed", certificates=made)
        return made

    def verify(self, chain: Sequence[bytes]) -> CertificatePath:
        """See judge.Verify: what a handshake would say now."""
        try:
            return rehearse(self.context(), chain)
        except OSError as error:
            raise IdentityError(*why_failed(error)) from error

    def check(self, path: CertificatePath, now: datetime) -> None:
        """See judge.Revoked."""
        if path and self.revocations.is_asked:
            self.revocations.check(self._whole(path), now.astimezone(UTC))

    def _whole(self, path: CertificatePath) -> CertificatePath:
        """The path that was verified when the TLS session began."""
        if len(path) > 1:
            self._paths[path[0]] = path
            return path
        return self._paths.get(path[0]) or self.verify(path)

    def authorities_changed(self) -> None:
        """Others are registered now than before: read them. Raises TlsReloadError."""
        self._write_registered()
        self.reload()

    def authorities(self) -> list[x509.Certificate]:
        """The certificate authorities that count for devices."""
        return [*self._authority.certificates, *self._other_authorities(), *self._registered_authorities()]

    def _read_revocations(self) -> Revocations:
        others = [*self._authority.certificates, *self._registered_authorities()]
        return Revocations(self._crl, self._other_authorities(), others)

    def _registered_authorities(self) -> list[x509.Certificate]:
        return [one.certificate for one in self._registered.all()]

    def _write_registered(self) -> None:
        """For OpenSSL, which reads files: none where nobody is registered, for it takes no empty one."""
        data = pem_of(self._registered_authorities())
        if data:
            write_public(self._registered_file, data)
        else:
            self._registered_file.unlink(missing_ok=True)

    def _other_authorities(self) -> list[x509.Certificate]:
        return from_file(self._other_ca.read_bytes()) if self._other_ca is not None else []

    def _load_revocations(self) -> None:
        self._crl_stamp = self._stamp()
        try:
            self.revocations.load()
        except RevocationListError as error:
            log.error("no revocation list: certificates of other authorities are refused", error=str(error))
        self._log_faults()

    def _log_faults(self) -> None:
        for fault in self.revocations.faults:
            log.error("unusable revocation list: the certificates it covers are refused", error=fault)

    def _stamp(self) -> Stamp:
        try:
            return tuple(_stamp_of(file) for file in files_of(self._crl)) if self._crl is not None else ()
        except OSError:
            return ()

    async def _watch(self) -> None:
        """Read files that have changed. Raises TlsReloadError as long as those that are there can't be used."""
        if not self._renewing and (self._lists_changed() or self.files.changed()):
            before = self._stamp(), self.files.stamp()
            await asyncio.sleep(_SETTLE_SECONDS)
            if (self._stamp(), self.files.stamp()) == before:
                await self._read_changed()
        if self._refused:
            raise TlsReloadError(self._refused)

    def _lists_changed(self) -> bool:
        return self._stamp() != self._crl_stamp

    async def _read_changed(self) -> None:
        if self._lists_changed():
            await self._read_lists()
        else:
            self.try_reload()

    async def _read_lists(self) -> None:
        """In a thread: lists may be long. A file that changes meanwhile is read again at the next look."""
        stamp = self._stamp()
        try:
            read = await asyncio.to_thread(self.revocations.read)
        except RevocationListError:
            read = None  # the reload finds the same, and says so
        self.try_reload(read)
        self._crl_stamp = stamp

    def try_reload(self, read: Sequence[RevocationList] | None = None) -> None:
        """As reload; a failure is logged, and kept."""
        self._refused = ""
        try:
            self.reload(read)
        except TlsReloadError as error:
            self._refused = str(error)
            log.error("TLS files", error=str(error))


def _stamp_of(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return file.name, found.st_mtime_ns, found.st_size
