"""Members, certificates and details as rows of fleet.db, and back."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, Insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fleet.errors import ConflictError
from fleet.identity import Kind
from fleet.registry.details import Details, Value, ValueKind, kind_of
from fleet.registry.model import Certificate, CertificateStatus, Member
from fleet.registry.query import sort_key
from fleet.registry.schema import (
    attributes,
    certificates,
    decisions,
    group_devices,
    members,
    policy_attachments,
    presence,
    presence_events,
    quotas,
    seen,
    tags,
    usage,
)

Rows = list[dict[str, Any]]


def rows_of(
    found: Sequence[Member], entries: Iterable[Certificate], details: Iterable[Details]
) -> Iterator[tuple[Insert, Rows]]:
    """Yield the INSERTs of new members, and the rows of each; none without rows. One `details` a member."""
    known = list(zip(found, details, strict=True))
    tables = (
        (members, [_member_row(member, one) for member, one in known]),
        (certificates, [certificate_row(entry) for entry in entries]),
        (attributes, [row for member, one in known for row in attribute_rows(member.name, one.attributes)]),
        (tags, [row for member, one in known for row in tag_rows(member.name, one.tags)]),
    )
    for table, rows in tables:
        if rows:
            yield table.insert(), rows


def delete_of(kind: Kind, name: str) -> Iterator[Executable]:
    """Yield the DELETEs of a member, and of all that is known about it. Its certificates stay."""
    yield members.delete().where(members.c.kind == kind, members.c.name == name)
    if kind is Kind.DEVICE:
        for table in (attributes, tags, group_devices, seen, presence, presence_events, quotas, usage, decisions):
            yield table.delete().where(table.c.device == name)
        attached = policy_attachments.c.kind == "device", policy_attachments.c.target == name
        yield policy_attachments.delete().where(*attached)


async def check_not_attached(connection: AsyncConnection, kind: str, name: str) -> None:
    """Raise ConflictError while a policy is attached to a type or group."""
    at = policy_attachments.c.kind == kind, policy_attachments.c.target == name
    found = (await connection.execute(select(policy_attachments.c.policy).where(*at).limit(1))).scalar()
    if found is not None:
        raise ConflictError(f"policy {found} is attached to {kind} {name}: detach it first")


def attribute_rows(device: str, found: Mapping[str, Value]) -> Rows:
    """Attributes as rows."""
    return [
        {
            "device": device,
            "key": key,
            "kind": kind_of(value),
            "text": value if isinstance(value, str) else json.dumps(value),
            "number": value if kind_of(value) is ValueKind.NUMBER else None,
            "sort": sort_key(value) if isinstance(value, str) else None,
        }
        for key, value in found.items()
    ]


def attribute_value(row: Any) -> Value:
    """The value of an attribute's row."""
    value: Value = row.text if row.kind == ValueKind.STRING else json.loads(row.text)
    return value


def tag_rows(device: str, found: Iterable[str]) -> Rows:
    """Tags as rows."""
    return [{"device": device, "tag": tag} for tag in found]


def certificate_row(entry: Certificate) -> dict[str, Any]:
    """A certificate as a row."""
    return {
        "fingerprint": entry.fingerprint,
        "kind": entry.kind,
        "name": entry.name,
        "serial": entry.serial,
        "not_before": entry.not_before,
        "not_after": entry.not_after,
        "status": entry.status,
        "created": entry.created,
        "issuer": entry.issuer,
        "changed": entry.changed,
        "key": entry.key,
    }


def certificate_of(row: Any) -> Certificate:
    """A certificate's row as a certificate."""
    return Certificate(
        row.fingerprint,
        Kind(row.kind),
        row.name,
        row.serial,
        row.not_before,
        row.not_after,
        CertificateStatus(row.status),
        row.created,
        row.issuer,
        row.changed,
    )


def _member_row(member: Member, details: Details) -> dict[str, Any]:
    return {
        "kind": member.kind,
        "name": member.name,
        "state": member.state,
        "created": member.created,
        "updated": member.updated,
        "publish": json.dumps(member.publish),
        "subscribe": json.dumps(member.subscribe),
        "version": member.version,
        "display_name": details.display_name,
        "type": details.type,
        "site": details.site,
        "notes": details.notes,
    }
