"""The registry: which devices and applications belong to the fleet, and by which certificates they are known."""

from fleet.registry.group_service import Groups
from fleet.registry.inventory import Inventory
from fleet.registry.model import CONNECTS, Certificate, CertificateStatus, Member, Refused, State
from fleet.registry.service import Registry
from fleet.registry.type_service import Types

__all__ = [
    "CONNECTS",
    "Certificate",
    "CertificateStatus",
    "Groups",
    "Inventory",
    "Member",
    "Refused",
    "Registry",
    "State",
    "Types",
]
