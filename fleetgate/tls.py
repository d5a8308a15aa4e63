"""Certificates of the device listeners, read anew when a file changes, on SIGHUP and by the API."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import structlog
from cryptography import x509

from broker_plugins.engine.handshakes import TlsFiles
from fleet.authority import Authority
from fleet.authority.chain import pem_of
from fleet.errors import FleetError
from fleet.files import write_public
from fleet.provisioning.authorities import Authorities
from fleet.revocation import RevocationListError, Revocations
from fleet.state import StateFolder
from fleetgate.errors import SettingsError
from fleetgate.settings import Settings

log = structlog.get_logger("fleetgate")

AUTHORITIES = "authorities.pem"
"""Certificates of the authorities that are registered, for OpenSSL to read."""
_LOOK_SECONDS = 0.5


class TlsReloadError(Exception):
    """New files can't be used; the ones before go on counting."""


class DeviceTls:
    """TLS context and revocation lists. An async context manager: looks for changed files while it is open.

    `reloaded` is called after new files were taken, to judge the connections that are there by them.
    """

    def __init__(self, settings: Settings, state: StateFolder, authority: Authority, registered: Authorities) -> None:
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
        self._crl_stamp: int | None = None
        self.reloaded: list[Callable[[], None]] = []
        self._renewing = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._load_revocations()
        self._task = asyncio.create_task(self._watch(), name="tls-files")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def context(self) -> ssl.SSLContext:
        """The context for connections from now on."""
        return self.files.context

    def reload(self) -> None:
        """Read all files again, the server's certificate renewed where it is due. Raises TlsReloadError."""
        try:
            self._authority.ensure_server(self._settings.tls.names)
            self.files.load()
            self.revocations = self._read_revocations()
            self.revocations.load()
        except (OSError, ValueError, FleetError) as error:
            raise TlsReloadError(f"TLS files not taken, those before go on counting: {error}") from error
        finally:
            self._crl_stamp = self._stamp()
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
            log.info("certificates were made again", certificates=made)
        return made

    def check(self, certificate: bytes, now: datetime) -> None:
        """See Revocations.check."""
        self.revocations.check(certificate, now.astimezone(UTC))

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
        return x509.load_pem_x509_certificates(self._other_ca.read_bytes()) if self._other_ca is not None else []

    def _load_revocations(self) -> None:
        self._crl_stamp = self._stamp()
        try:
            self.revocations.load()
        except RevocationListError as error:
            log.error("no revocation list: certificates of other authorities are refused", error=str(error))

    def _stamp(self) -> int | None:
        try:
            return self._crl.stat().st_mtime_ns if self._crl is not None else None
        except OSError:
            return None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._renewing and (self.files.changed() or self._stamp() != self._crl_stamp):
                self.try_reload()

    def try_reload(self) -> None:
        """As reload; a failure is logged."""
        try:
            self.reload()
        except TlsReloadError as error:
            log.error("TLS files", error=str(error))
