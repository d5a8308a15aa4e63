"""Values of the registry, and the decision whether a certificate is let in. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from fleet.errors import StaleError
from fleet.identity import Identity, Kind


class State(StrEnum):
    """Where a member is in its life."""

    REGISTERED = "registered"
    """It was never connected."""
    ACTIVE = "active"
    SUSPENDED = "suspended"
    RETIRED = "retired"


TRANSITIONS = {
    State.REGISTERED: frozenset({State.ACTIVE, State.SUSPENDED, State.RETIRED}),
    State.ACTIVE: frozenset({State.SUSPENDED, State.RETIRED}),
    State.SUSPENDED: frozenset({State.ACTIVE, State.RETIRED}),
    State.RETIRED: frozenset[State](),
}
"""What may follow a state."""
CONNECTS = frozenset({State.REGISTERED, State.ACTIVE})
"""States in which a member may connect."""


class CertificateStatus(StrEnum):
    """Whether a certificate counts. Revoked ones, and those of deleted members, are kept: they stay refused."""

    PENDING = "pending"
    """It was not activated yet."""
    ACTIVE = "active"
    INACTIVE = "inactive"
    REVOKED = "revoked"
    DELETED = "deleted"


CERTIFICATE_TRANSITIONS = {
    CertificateStatus.PENDING: frozenset({CertificateStatus.ACTIVE, CertificateStatus.REVOKED}),
    CertificateStatus.ACTIVE: frozenset({CertificateStatus.INACTIVE, CertificateStatus.REVOKED}),
    CertificateStatus.INACTIVE: frozenset({CertificateStatus.ACTIVE, CertificateStatus.REVOKED}),
    CertificateStatus.REVOKED: frozenset[CertificateStatus](),
    CertificateStatus.DELETED: frozenset[CertificateStatus](),
}
"""What may follow the status of a certificate."""
MAX_ACTIVE = 2
"""Active certificates of a member at a time: one in use, and the next one, while they are exchanged."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate of a member. Times are microseconds since 1970-01-01 UTC; `serial` is lower-case hex.

    `issuer` is the key identifier of the authority that signed it, in lower-case hex, empty where it does not say;
    `changed` is when its status did, 0 where that is not known. `key` is identity.key_of its key: in fleet.db only.
    """

    fingerprint: str
    kind: Kind
    name: str
    serial: str
    not_before: int
    not_after: int
    status: CertificateStatus
    created: int
    issuer: str = ""
    changed: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A device or an application. `publish` and `subscribe` are an application's filters, empty for a device.

    `version` counts its changes.
    """

    kind: Kind
    name: str
    state: State
    created: int
    updated: int
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    version: int = 1

    def may_use_client_id(self, client_id: str) -> bool:
        """Whether this MQTT client id is its own: its name, or for an application its name, a slash and anything.

        No name has a slash, so no device's client id begins like that. A claim has as many clients as there are devices
        that share it: they get client ids of their own.
        """
        if client_id == self.name or self.kind is Kind.CLAIM:
            return True
        return self.kind is Kind.APPLICATION and client_id.startswith(f"{self.name}/")


def check_version(what: str, version: int, expected: int | None) -> int:
    """The version that a change makes of `version` (0: not there yet).

    `expected`: the version that whoever asks for the change has seen. Raises StaleError when it is another by now.
    """
    if expected is not None and version != expected:
        raise StaleError(f"{what} has version {version} by now, not {expected}: look again")
    return version + 1


class Refused(Exception):  # noqa: N818 - the answer to a question, not a fault
    """This certificate is not let in. `reason` is one of REFUSALS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


REFUSALS = (
    "unknown_device",
    "unknown_certificate",
    "pending",
    "inactive",
    "revoked",
    "deleted",
    "disabled",
    "retired",
)
"""Why an identity is not let in. Closed: each is a label value."""


def admit(identity: Identity, certificate: Certificate | None, member: Member | None) -> Member:
    """Decide on a connection, from the registered certificate with the identity's fingerprint and its member.

    The fingerprint admits, never the name alone. Returns the member; raises Refused.
    """
    if certificate is None:
        if member is None:
            raise Refused("unknown_device", f"{identity.kind} {identity.name} is not registered")
        raise Refused("unknown_certificate", f"this certificate is not registered for {identity.name}")
    if (certificate.kind, certificate.name) != (identity.kind, identity.name):
        raise Refused("unknown_certificate", f"this certificate is registered for {certificate.name}")
    if member is not None and member.state is State.RETIRED:  # which has revoked its certificates too
        raise Refused("retired", f"{identity.name} is retired")
    if certificate.status is not CertificateStatus.ACTIVE:
        raise Refused(certificate.status.value, f"this certificate of {identity.name} is {certificate.status}")
    if member is None:
        raise Refused("unknown_device", f"{identity.kind} {identity.name} is not registered")
    if member.state not in CONNECTS:
        raise Refused("disabled", f"{identity.name} is disabled")
    return member
