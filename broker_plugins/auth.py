"""Authentication by client certificate: the identity it carries, its registered fingerprint, and its client id."""

import structlog
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.services import CONNECTION, MEMBER, Services
from fleet.identity import IdentityError, identify
from fleet.registry import Member, Refused

log = structlog.get_logger("fleetgate.mqtt")

_GENERATED = "amqtt/"
"""amqtt gives a client without an id a random one that begins so; no name has a slash."""


class CertificateAuthPlugin(Attached, BaseAuthPlugin):
    """Lets in who has a certificate registered and active for the name it carries, and uses that name as client id."""

    async def authenticate(self, *, session: Session) -> bool:
        """Judge a connection. Never raises, never fails open."""
        if self.services is None:
            return False
        try:
            return _judge(self.services, session)
        except Exception:
            # Supervision point: whatever goes wrong here must not become an open door, nor end the broker.
            log.exception("authentication failed")
            self.services.connects.refused("failed")
            return False


def _check_client_id(member: Member, client_id: str) -> None:
    if not member.may_use_client_id(client_id):
        raise Refused("client_id", f"client id {client_id[:200]!r} is not {member.name}'s")


def _judge(services: Services, session: Session) -> bool:
    peer = f"{session.remote_address}:{session.remote_port}"
    client_id = session.client_id or ""
    known_as = ""
    try:
        tls = CONNECTION.get() or session.ssl_object
        der = tls.getpeercert(True) if tls is not None else None
        identity = identify(der, services.rules, services.now())
        known_as = identity.name
        member = services.registry.admit(identity)
        if client_id.startswith(_GENERATED) or not client_id:
            client_id = member.name
        _check_client_id(member, client_id)
    except (IdentityError, Refused) as refusal:
        services.connects.refused(refusal.reason)
        services.refusals.refused("connect", known_as, refusal.reason, str(refusal), peer=peer)
        return False
    session.client_id = client_id
    session.attributes[MEMBER] = member
    services.connects.accepted()
    return True
