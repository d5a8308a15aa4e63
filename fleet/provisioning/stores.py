"""Templates, authorities, claims and enrolment lists, as fleet.db has them. All but the lists are in memory too."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import ConflictError, InvalidCertificateError, NotFoundError
from fleet.identity import IdentityError, Rules, Source, check_key
from fleet.provisioning.model import Claim, Entry, IssuingAuthority, ListKind, Mode
from fleet.provisioning.template import Template, from_object
from fleet.registry.database import Database
from fleet.registry.details import check_word
from fleet.registry.model import check_version
from fleet.registry.schema import authorities, claims, enrolment_lists, enrolments, provisionings, templates
from ingester.clock import Clock, now_us

_SLICE = 500


class Templates:
    """Templates by name, with what each was written as. An async context manager."""

    def __init__(self, database: Database, clock: Clock = now_us) -> None:
        self._database = database
        self._clock = clock
        self._found: dict[str, tuple[dict[str, Any], Template, int]] = {}

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            for row in await connection.execute(templates.select()):
                source = json.loads(row.document)
                self._found[row.name] = source, from_object(source), row.version
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    def all(self) -> Sequence[str]:
        """Names of all templates."""
        return sorted(self._found)

    def get(self, name: str) -> tuple[dict[str, Any], Template, int]:
        """As it was written, what it means, and its version. Raises NotFoundError."""
        if name not in self._found:
            raise NotFoundError(f"no template named {name[:128]!r}")
        return self._found[name]

    async def put(self, name: str, source: dict[str, Any], template: Template, expected: int | None = None) -> int:
        """Make a template, or change it: its version. Raises InvalidDetailsError, StaleError."""
        check_word("name", name)
        async with self._database.transaction() as connection:
            known = self._found.get(name)
            version = check_version(f"template {name}", known[2] if known else 0, expected)
            now = self._clock()
            before = (await connection.execute(templates.select().where(templates.c.name == name))).first()
            await connection.execute(templates.delete().where(templates.c.name == name))
            row = {
                "name": name,
                "document": json.dumps(source),
                "version": version,
                "created": before.created if before is not None else now,
                "updated": now,
            }
            await connection.execute(templates.insert(), [row])
        self._found[name] = source, template, version
        return version

    async def delete(self, name: str) -> None:
        """Delete a template. Raises NotFoundError, and ConflictError while a claim or an authority needs it."""
        async with self._database.transaction() as connection:
            self.get(name)
            for table, what in ((claims, "claim"), (authorities, "authority")):
                found = (await connection.execute(select(table.c.name).where(table.c.template == name))).scalar()
                if found is not None:
                    raise ConflictError(f"template {name} is that of {what} {found}")
            await connection.execute(templates.delete().where(templates.c.name == name))
        del self._found[name]


class Authorities:
    """Certificate authorities of others. An async context manager; `changed` is called when there are others."""

    def __init__(self, database: Database, templates: Templates, clock: Clock = now_us) -> None:
        self._database = database
        self._templates = templates
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
        for found in self._found.values():
            if found.certificate.subject == certificate.issuer:
                try:
                    certificate.verify_directly_issued_by(found.certificate)
                except (ValueError, TypeError, InvalidSignature):
                    continue
                return found
        return None

    def rules(self, der: bytes | None, otherwise: Rules) -> Rules:
        """Where the certificates of its authority name the device; `otherwise` counts where that is not said."""
        if der is None or all(found.source is None for found in self._found.values()):
            return otherwise
        try:
            issuer = self.issuer_of(x509.load_der_x509_certificate(der))
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
            _source, template, _version = self._templates.get(wanted.template)
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


class Claims:
    """Claims by name, and how often each was used. An async context manager."""

    def __init__(self, database: Database, templates: Templates, clock: Clock = now_us) -> None:
        self._database = database
        self._templates = templates
        self._clock = clock
        self._found: dict[str, Claim] = {}

    async def __aenter__(self) -> Self:
        async with self._database.reading() as connection:
            for row in await connection.execute(claims.select()):
                self._found[row.name] = Claim(
                    row.name, row.template, row.max_uses, row.per_hour, row.expires, row.uses, row.created
                )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open."""

    def all(self) -> Sequence[Claim]:
        """All claims by name."""
        return [self._found[name] for name in sorted(self._found)]

    def get(self, name: str) -> Claim:
        """One claim; raises NotFoundError."""
        if name not in self._found:
            raise NotFoundError(f"no claim named {name[:128]!r}")
        return self._found[name]

    async def add(self, connection: AsyncConnection, wanted: Claim) -> Claim:
        """Make a claim, in the transaction that registers its certificate. Raises NotFoundError for its template."""
        self._templates.get(wanted.template)
        kept = replace(wanted, uses=0, created=self._clock())
        row = {
            "name": kept.name,
            "template": kept.template,
            "max_uses": kept.max_uses,
            "per_hour": kept.per_hour,
            "expires": kept.expires,
            "created": kept.created,
        }
        await connection.execute(claims.insert(), [row])
        return kept

    def keep(self, claim: Claim) -> None:
        """What was added, or used, is committed."""
        self._found[claim.name] = claim

    async def delete(self, connection: AsyncConnection, name: str) -> None:
        """Forget a claim, in the transaction that deletes its certificate."""
        await connection.execute(claims.delete().where(claims.c.name == name))

    def forget(self, name: str) -> None:
        """What was deleted is committed."""
        self._found.pop(name, None)

    async def used(self, connection: AsyncConnection, name: str) -> Claim:
        """Count a use, in the transaction of what it made; to be kept when that is committed. Raises NotFoundError."""
        statement = claims.update().where(claims.c.name == name).values(uses=claims.c.uses + 1).returning(claims.c.uses)
        uses = (await connection.execute(statement)).scalar()
        return replace(self.get(name), uses=int(uses or 0))

    async def of_last_hour(self, connection: AsyncConnection, name: str) -> int:
        """How often it was used in the last hour, with and without success."""
        since = self._clock() - 3_600_000_000
        columns = provisionings.c
        asked = columns.how == "claim", columns.by == name, columns.at > since
        return int(
            (await connection.execute(select(func.count()).select_from(provisionings).where(*asked))).scalar_one()
        )


class Enrolments:
    """Enrolment lists, in fleet.db."""

    def __init__(self, database: Database, clock: Clock = now_us) -> None:
        self._database = database
        self._clock = clock

    async def lists(self) -> list[tuple[str, ListKind, int, int]]:
        """Name, kind, how many are on it, and how many of them have come."""
        used = func.sum(enrolments.c.device != "")
        statement = (
            select(enrolment_lists.c.name, enrolment_lists.c.kind, func.count(enrolments.c.value), used)
            .select_from(enrolment_lists.outerjoin(enrolments, enrolments.c.list == enrolment_lists.c.name))
            .group_by(enrolment_lists.c.name)
            .order_by(enrolment_lists.c.name)
        )
        async with self._database.reading() as connection:
            found = await connection.execute(statement)
            return [(str(name), ListKind(kind), int(count), int(come or 0)) for name, kind, count, come in found]

    async def entries(self, name: str, after: str, limit: int) -> list[Entry]:
        """What is on a list, in order, the first `limit` behind `after`. Raises NotFoundError."""
        async with self._database.reading() as connection:
            await self._kind(connection, name)
            statement = (
                enrolments.select()
                .where(enrolments.c.list == name, enrolments.c.value > after)
                .order_by(enrolments.c.value)
                .limit(limit)
            )
            return [_entry(row) for row in await connection.execute(statement)]

    async def put(self, name: str, kind: ListKind, entries: Iterable[Entry]) -> int:
        """Make a list, or add to one: how many are new. One that is on it already, and was not used, is replaced.

        Raises InvalidDetailsError, and ConflictError for a list of another kind.
        """
        check_word("name", name)
        new = 0
        async with self._database.transaction() as connection:
            known = (
                await connection.execute(select(enrolment_lists.c.kind).where(enrolment_lists.c.name == name))
            ).scalar()
            if known is None:
                row = {"name": name, "kind": kind.value, "created": self._clock()}
                await connection.execute(enrolment_lists.insert(), [row])
            elif known != kind:
                raise ConflictError(f"enrolment list {name} is one of {known}s")
            for entry in entries:
                where = enrolments.c.list == name, enrolments.c.value == entry.value
                before = (await connection.execute(enrolments.select().where(*where))).first()
                if before is not None and before.device:
                    raise ConflictError(f"{entry.value[:80]}: {before.device} has used this already")
                new += before is None
                await connection.execute(enrolments.delete().where(*where))
                await connection.execute(enrolments.insert(), [_entry_row(name, entry)])
        return new

    async def delete(self, name: str) -> None:
        """Delete a list; devices that came by it stay. Raises NotFoundError."""
        async with self._database.transaction() as connection:
            await self._kind(connection, name)
            await connection.execute(enrolments.delete().where(enrolments.c.list == name))
            await connection.execute(enrolment_lists.delete().where(enrolment_lists.c.name == name))

    async def find(self, connection: AsyncConnection, name: str, values: Mapping[ListKind, str]) -> Entry | None:
        """What a list has of a device, by its serial number or its key. Raises NotFoundError for the list."""
        kind = await self._kind(connection, name)
        where = enrolments.c.list == name, enrolments.c.value == values[kind]
        row = (await connection.execute(enrolments.select().where(*where))).first()
        return None if row is None else _entry(row)

    async def use(self, connection: AsyncConnection, name: str, entry: Entry, device: str) -> None:
        """Write down who has come, in the transaction that registers it."""
        where = enrolments.c.list == name, enrolments.c.value == entry.value
        await connection.execute(enrolments.update().where(*where).values(device=device, used=self._clock()))

    async def _kind(self, connection: AsyncConnection, name: str) -> ListKind:
        found = (
            await connection.execute(select(enrolment_lists.c.kind).where(enrolment_lists.c.name == name))
        ).scalar()
        if found is None:
            raise NotFoundError(f"no enrolment list named {name[:128]!r}")
        return ListKind(found)


def _entry(row: Any) -> Entry:
    return Entry(
        row.value, row.site, row.type, tuple(json.loads(row.groups)), json.loads(row.attributes), row.device, row.used
    )


def _entry_row(name: str, entry: Entry) -> dict[str, Any]:
    return {
        "list": name,
        "value": entry.value,
        "site": entry.site,
        "type": entry.type,
        "groups": json.dumps(entry.groups),
        "attributes": json.dumps(dict(entry.attributes)),
    }


def _check_authority(certificate: x509.Certificate) -> None:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound):
        raise InvalidCertificateError("this certificate is not one of an authority: it has no CA:TRUE") from None
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
