"""Certificate authorities of others, as fleet.db has them, and in memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fleet.authority.chain import constraints_of, is_signed_by
from fleet.certificates import from_der
from fleet.errors import ConflictError, InvalidCertificateError, NotFoundError
from fleet.identity import IdentityError, Rules, Source, check_key
from fleet.provisioning.model import IssuingAuthority, Mode
from fleet.provisioning.templates import Templates
from fleet.registry.database import Database
from fleet.registry.details import check_word
from fleet.registry.model import check_version
from fleet.registry.schema import authorities
from ingester.clock import Clock, now_us


class Authorities:
    """Certificate authorities of others. An async context manager; `changed` is called when there are others."""

    def __init__(self, database: Database, templates: Templates, clock: Clock = now_us) -> None:
        self._database = database
        self.templates = templates
        self._clock = clock
        self._found: dict[str, IssuingAuthority] = {}

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            for row in await connection.execute(authorities.select()):
                self._found[row.name] = IssuingAuthority(
                    row.name,
                    x509.load_pem_x509_certificate(row.certificate.encode()),
                    Mode(row.mode),
                    row.template,
                    Source(row.source) if row.source else None,
                    row.version,
                    row.created,
                    row.updated,
                )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    def all(self) -> Sequence[IssuingAuthority]:
        """All of them by name."""
        return [self._found[name] for name in sorted(self._found)]

    def get(self, name: str) -> IssuingAuthority:
        """One of them; raises NotFoundError."""
        if name not in self._found:
            raise NotFoundError(f"no authority named {name[:128]!r}")
        return self._found[name]

    def issuer_of(self, certificate: x509.Certificate) -> IssuingAuthority | None:
        """The one that signed a certificate, None: none of them did."""
        return next((found for found in self._found.values() if is_signed_by(certificate, found.certificate)), None)

    def rules(self, der: bytes | None, otherwise: Rules) -> Rules:
        """Where the certificates of its authority name the device; `otherwise` counts where that is not said."""
        if der is None or all(found.source is None for found in self._found.values()):
            return otherwise
        try:
            issuer = self.issuer_of(from_der(der))
        except ValueError:
            return otherwise
        if issuer is None or issuer.source is None:
            return otherwise
        return replace(otherwise, source=issuer.source)

    async def put(self, wanted: IssuingAuthority, expected: int | None = None) -> IssuingAuthority:
        """Register an authority, or change it.

        Raises InvalidDetailsError, InvalidCertificateError for what signs no certificates, NotFoundError for its
        template, StaleError, and ConflictError when it is registered by another name, or the template needs more than a
        certificate says.
        """
        check_word("name", wanted.name)
        _check_authority(wanted.certificate)
        if wanted.mode is not Mode.NONE or wanted.template:
            _source, template, _version = self.templates.get(wanted.template)
            if missing := template.missing_for_certificates():
                raise ConflictError(
                    f"template {wanted.template} asks for {', '.join(missing)}, which no certificate says"
                )
        async with self._database.transaction() as connection:
            known = self._found.get(wanted.name)
            version = check_version(f"authority {wanted.name}", known.version if known else 0, expected)
            for other in self._found.values():
                if other.name != wanted.name and other.certificate.subject == wanted.certificate.subject:
                    raise ConflictError(f"authority {other.name} has the same subject")
            now = self._clock()
            kept = replace(wanted, version=version, created=known.created if known else now, updated=now)
            await connection.execute(authorities.delete().where(authorities.c.name == kept.name))
            row = {
                "name": kept.name,
                "certificate": kept.certificate.public_bytes(Encoding.PEM).decode(),
                "mode": kept.mode.value,
                "template": kept.template,
                "source": kept.source.value if kept.source else "",
                "version": kept.version,
                "created": kept.created,
                "updated": kept.updated,
            }
            await connection.execute(authorities.insert(), [row])
        self._found[kept.name] = kept
        return kept

    async def delete(self, name: str) -> None:
        """Let the certificates of an authority count no more. Raises NotFoundError."""
        async with self._database.transaction() as connection:
            self.get(name)
            await connection.execute(authorities.delete().where(authorities.c.name == name))
        del self._found[name]


def _check_authority(certificate: x509.Certificate) -> None:
    basic = constraints_of(certificate)
    if basic is None:
        raise InvalidCertificateError("this certificate is not one of an authority: it has no CA:TRUE")
    if not basic.ca:
        raise InvalidCertificateError("this certificate is not one of an authority: it has CA:FALSE")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound):
        pass  # without the extension a key is good for every use (RFC 5280, 4.2.1.3)
    else:
        if not usage.key_cert_sign:
            raise InvalidCertificateError("this certificate's key usage does not let it sign certificates")
    try:
        check_key(certificate.public_key())
    except IdentityError as error:
        raise InvalidCertificateError(str(error)) from error
