"""The registry: which devices and applications belong to the fleet, and by which certificates they are known."""

from fleet.registry.model import Certificate, CertificateStatus, Member, Refused, Status
from fleet.registry.service import Registry

__all__ = ["Certificate", "CertificateStatus", "Member", "Refused", "Registry", "Status"]
