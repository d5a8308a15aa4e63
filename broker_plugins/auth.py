"""Authentication by client certificate: the identity it carries, its registered fingerprint, and its client id."""

import structlog
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.engine.errors import Denied
from broker_plugins.engine.hooks import Candidate, Principal
from broker_plugins.engine.reasons import Reason
from broker_plugins.services import MEMBER, Services
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

    def admit(self, candidate: Candidate) -> Principal:
        """What our engine calls: judge a connection by its certificate and client id. Raises Denied."""
        if self.services is None:
            raise Denied("failed", "not started", Reason.SERVER_UNAVAILABLE)
        member, client_id = _admit(self.services, candidate.peer.certificate, candidate.connect.client_id)
        return Principal(owner_of(member), member.name, member.rights, client_id)


def owner_of(member: Member) -> str:
    """The key of an identity: to whom sessions belong."""
    return f"{member.kind}:{member.name}"


def _check_client_id(member: Member, client_id: str) -> None:
    if not member.may_use_client_id(client_id):
        raise Refused("client_id", f"client id {client_id[:200]!r} is not {member.name}'s")


def _admit(services: Services, certificate: bytes | None, client_id: str) -> tuple[Member, str]:
    """The member that a certificate belongs to, and its client id: an empty one becomes its name. Raises Denied."""
    known_as = ""
    try:
        identity = identify(certificate, services.rules, services.now())
        known_as = identity.name
        if certificate is not None and services.revoked is not None:
            services.revoked(certificate, services.now())
        member = services.registry.admit(identity)
        client_id = client_id or member.name
        _check_client_id(member, client_id)
    except (IdentityError, Refused) as refusal:
        raise Denied(refusal.reason, str(refusal), name=known_as) from refusal
    return member, client_id


def _judge(services: Services, session: Session) -> bool:
    peer = f"{session.remote_address}:{session.remote_port}"
    client_id = session.client_id or ""
    try:
        tls = session.ssl_object
        der = tls.getpeercert(True) if tls is not None else None
        member, client_id = _admit(services, der, "" if client_id.startswith(_GENERATED) else client_id)
    except Denied as denied:
        services.connects.refused(denied.why)
        services.refusals.refused("connect", denied.name, denied.why, str(denied), peer=peer)
        return False
    session.client_id = client_id
    session.attributes[MEMBER] = member
    services.connects.accepted()
    return True
