"""Values of provisioning: authorities of others, claims, enrolment lists, and what came of a request. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from cryptography import x509

from fleet.errors import FleetError
from fleet.identity import Source
from fleet.registry.details import Value

Code = Literal[
    "bad_request",
    "template",
    "parameters",
    "csr",
    "key_in_use",
    "name_taken",
    "not_enrolled",
    "hook",
    "issuer",
    "claim",
    "claim_expired",
    "claim_exhausted",
    "claim_rate",
    "not_permitted",
    "failed",
]
"""Why a request is rejected. Closed, and stable: devices and programs may rely on them."""


class ProvisioningError(FleetError):
    """A device does not get what it asked for."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Mode(StrEnum):
    """What becomes of a certificate of an authority that is not registered yet."""

    NONE = "none"
    """It is refused."""
    PENDING = "pending"
    """Its device is registered, and refused until somebody activates the certificate."""
    ACTIVE = "active"
    """Its device is registered, and let in."""


@dataclass(frozen=True, slots=True)
class IssuingAuthority:
    """A certificate authority of somebody else, whose certificates count here.

    `source` is where its certificates name the device, None: as the settings say.
    """

    name: str
    certificate: x509.Certificate
    mode: Mode = Mode.NONE
    template: str = ""
    source: Source | None = None
    version: int = 1
    created: int = 0
    updated: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a shared claim certificate may be used for. Times: microseconds since 1970-01-01 UTC.

    None: no limit; `per_hour` counts every use, `max_uses` those that made a device.
    """

    name: str
    template: str
    max_uses: int | None = None
    per_hour: int | None = None
    expires: int | None = None
    uses: int = 0
    created: int = 0


class ListKind(StrEnum):
    """What an enrolment list knows devices by."""

    SERIAL = "serial"
    KEY = "key"
    """SHA-256 of the public key (DER, SubjectPublicKeyInfo), lower-case hex."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One device of an enrolment list, and what it is allocated to. `device` is who has used it, empty: nobody."""

    value: str
    site: str = ""
    type: str = ""
    groups: tuple[str, ...] = ()
    attributes: Mapping[str, Value] = field(default_factory=dict)
    device: str = ""
    used: int = 0


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What a device gets: its name, its certificate and those above it, PEM; `key` where the server made it."""

    device: str
    certificate: bytes
    ca: bytes
    status: str
    key: bytes | None = None
