"""Authentication by client certificate: the identity it carries, its registered fingerprint, and its client id."""

import secrets
from dataclasses import dataclass

import structlog
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.engine.errors import Denied
from broker_plugins.engine.hooks import Candidate, Principal
from broker_plugins.engine.reasons import Reason
from broker_plugins.services import CALLER, MEMBER, AnyRights, Services
from fleet.identity import IdentityError, Kind, identify
from fleet.policy.compiled import Caller
from fleet.provisioning.model import ProvisioningError
from fleet.registry import Member, Refused

log = structlog.get_logger("fleetgate.mqtt")

_UNKNOWN = frozenset({"unknown_device", "unknown_certificate"})
_CLIENT_ID_SHOWN = 64
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

    async def admit(self, candidate: Candidate) -> Principal:
        """What our engine calls: judge a connection by its certificate and client id. Raises Denied."""
        services = self._started()
        try:
            entrant = await let_in(
                services, candidate.peer.certificate, candidate.connect.client_id, candidate.peer.host
            )
        except Denied as denied:
            _keep(services, candidate, denied)
            raise
        rights = _judged(services, entrant, candidate)
        member, client_id = entrant.member, entrant.client_id
        shared = member.kind is Kind.CLAIM
        if shared:  # many have the certificate: none of them may be in another's way, nor in a device's
            client_id = f"{member.name}/{client_id[:_CLIENT_ID_SHOWN]}/{secrets.token_hex(8)}"
        return Principal(owner_of(member), member.name, rights, client_id, shared)

    def rejudge(self, candidate: Candidate) -> AnyRights:
        """What our engine calls when something changed: the rights of a connection now. Raises Denied."""
        services = self._started()
        entrant = _identified(services, candidate.peer.certificate, candidate.connect.client_id)
        return _judged(services, entrant, candidate)

    def _started(self) -> Services:
        if self.services is None:
            raise Denied("failed", "not started", Reason.SERVER_UNAVAILABLE)
        return self.services


@dataclass(frozen=True, slots=True)
class Entrant:
    """Who a certificate belongs to. An empty client id became its name."""

    member: Member
    client_id: str
    fingerprint: str


def owner_of(member: Member) -> str:
    """The key of an identity: to whom sessions belong."""
    return f"{member.kind}:{member.name}"


def owner_of_device(name: str) -> str:
    """The key of the device of this name."""
    return f"{Kind.DEVICE}:{name}"


def check_connect(services: Services, entrant: Entrant, caller: Caller, certificate: bytes | None) -> AnyRights:
    """The rights of who is let in by its policies as well. Raises Denied."""
    rights = services.rights(entrant.member, caller, certificate)
    if not rights.may_connect(entrant.client_id):
        name = entrant.member.name
        raise Denied("policy", f"no policy lets {name} connect as {entrant.client_id[:200]}", name=name)
    return rights


def _check_client_id(member: Member, client_id: str) -> None:
    if not member.may_use_client_id(client_id):
        raise Refused("client_id", f"client id {client_id[:200]!r} is not {member.name}'s")


async def let_in(services: Services, certificate: bytes | None, client_id: str, address: str) -> Entrant:
    """The member that a certificate belongs to, registered just now where its authority says so. Raises Denied."""
    try:
        entrant = _identified(services, certificate, client_id)
    except Denied as denied:
        if denied.why not in _UNKNOWN or not await _registered(services, certificate, address, denied):
            raise
        entrant = _identified(services, certificate, client_id)
    if services.policies.stale(entrant.member.name):
        await services.policies.settled(entrant.member.name)
        entrant = _identified(services, certificate, client_id)  # what else changed meanwhile counts too
    return entrant


async def _registered(services: Services, certificate: bytes | None, address: str, denied: Denied) -> bool:
    """Whether its authority registers the device of a certificate that is not known, and did. Raises Denied."""
    if services.provisioning is None or certificate is None:
        return False
    identity = identify(certificate, services.rules_for(certificate), services.now())
    try:
        return await services.provisioning.just_in_time(certificate, identity, address)
    except ProvisioningError as error:
        if error.code == "name_taken":
            raise denied from error
        raise Denied("provisioning", str(error), name=identity.name) from error


def _identified(services: Services, certificate: bytes | None, client_id: str) -> Entrant:
    """The member that a certificate belongs to. Raises Denied."""
    known_as = ""
    try:
        identity = identify(certificate, services.rules_for(certificate), services.now())
        known_as = identity.name
        if certificate is not None and services.revoked is not None:
            services.revoked(certificate, services.now())
        member = services.registry.admit(identity)
        client_id = client_id or member.name
        _check_client_id(member, client_id)
    except (IdentityError, Refused) as refusal:
        raise Denied(refusal.reason, str(refusal), name=known_as) from refusal
    return Entrant(member, client_id, identity.fingerprint)


def caller_of(candidate: Candidate, name: str, client_id: str, fingerprint: str) -> Caller:
    """Who asks, as decisions are kept with it."""
    peer = candidate.peer
    return Caller(name, client_id, peer.host, peer.tls, peer.listener, fingerprint)


def _judged(services: Services, entrant: Entrant, candidate: Candidate) -> AnyRights:
    caller = caller_of(candidate, entrant.member.name, entrant.client_id, entrant.fingerprint)
    return check_connect(services, entrant, caller, candidate.peer.certificate)


def _keep(services: Services, candidate: Candidate, denied: Denied) -> None:
    """Keep why a connect was refused, for who asks later; whose certificate names nobody is not kept."""
    if denied.name:
        caller = caller_of(candidate, denied.name, candidate.connect.client_id, "")
        services.decisions.refused(caller, denied.why, str(denied))


def _judge(services: Services, session: Session) -> bool:
    host, peer = session.remote_address or "", f"{session.remote_address}:{session.remote_port}"
    given = session.client_id or ""
    try:
        tls = session.ssl_object
        der = tls.getpeercert(True) if tls is not None else None
        entrant = _identified(services, der, "" if given.startswith(_GENERATED) else given)
        member = entrant.member
        caller = Caller(
            member.name, entrant.client_id, host, (tls.version() or "") if tls else "", "", entrant.fingerprint
        )
        check_connect(services, entrant, caller, der)
    except Denied as denied:
        services.connects.refused(denied.why)
        services.refusals.refused("connect", denied.name, denied.why, str(denied), peer=peer)
        return False
    session.client_id = entrant.client_id
    session.attributes[MEMBER] = member
    session.attributes[CALLER] = caller
    services.connects.accepted()
    return True
