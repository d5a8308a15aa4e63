"""Authentication by client certificate: the identity it carries, its registered fingerprint, and its client id."""

import secrets
from dataclasses import dataclass, replace

import structlog
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.engine.errors import Denied
from broker_plugins.engine.handshakes import path_of
from broker_plugins.engine.hooks import Candidate, Principal
from broker_plugins.engine.reasons import Reason
from broker_plugins.services import CALLER, MEMBER, AnyRights, Services
from fleet.identity import IdentityError, Kind, identify
from fleet.judge import Path
from fleet.policy.compiled import Caller
from fleet.provisioning.model import ProvisioningError
from fleet.registry import Member, Refused, Registry

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
        self.services.connects.arrived()
        try:
            return _judge(self.services, session)
        except Exception:
            # Supervision point: whatever goes wrong here must not become an open door, nor end the broker.
            log.exception("authentication failed")
            self.services.connects.refused("failed")
            return False

    async def admit(self, candidate: Candidate) -> Principal:
        """What our engine calls: judge a connection by its certificate and client id. Raises Denied."""
        entrant = await let_in(self._started(), candidate.peer.path, _asking(candidate))
        member, client_id = entrant.member, entrant.caller.client_id
        shared = member.kind is Kind.CLAIM
        if shared:  # many have the certificate: none of them may be in another's way, nor in a device's
            client_id = f"{member.name}/{client_id[:_CLIENT_ID_SHOWN]}/{secrets.token_hex(8)}"
        device = member.name if member.kind is Kind.DEVICE else ""
        account = self._started().registry.account_of(member.kind, member.name)
        return Principal(owner_of(member), account, entrant.rights, client_id, shared, device)

    def rejudge(self, candidate: Candidate) -> AnyRights:
        """What our engine calls when something changed: the rights of a connection now. Raises Denied."""
        services, peer = self._started(), candidate.peer
        return _judged(services, peer.certificate, *_identified(services, peer.path, _asking(candidate))).rights

    def _started(self) -> Services:
        if self.services is None:
            raise Denied("failed", "not started", Reason.SERVER_UNAVAILABLE)
        return self.services


@dataclass(frozen=True, slots=True)
class Entrant:
    """Who is let in, who it is to policies, and what it may do. An empty client id became its name."""

    member: Member
    caller: Caller
    rights: AnyRights


def owner_of(member: Member) -> str:
    """The key of an identity: to whom sessions belong."""
    return f"{member.kind}:{member.name}"


def owner_of_device(name: str) -> str:
    """The key of the device of this name."""
    return f"{Kind.DEVICE}:{name}"


def _check_client_id(registry: Registry, member: Member, client_id: str) -> None:
    if not member.may_use_client_id(client_id):
        own = f"its name, or {member.name}/ and anything" if member.kind is Kind.APPLICATION else "its name"
        raise Refused("client_id", f"client id {client_id[:200]!r} is not allowed for {member.name}: use {own}")
    if member.kind is Kind.APPLICATION and registry.find(Kind.DEVICE, client_id) is not None:
        free = f"use {member.name}/ and anything"
        raise Refused("client_id", f"client id {client_id!r} belongs to the device of that name: {free}")


async def let_in(services: Services, path: Path, asking: Caller) -> Entrant:
    """Judge who asks, by its certificates, registry and policies; `asking` has what is known without them.

    Who is not known is registered just now, where the authority says so. Raises Denied, and keeps why.
    """
    try:
        member, caller = await _known(services, path, asking)
    except Denied as denied:
        if denied.name:  # whose certificate names nobody is not kept
            services.decisions.refused(replace(asking, device=denied.name), denied.why, str(denied))
        raise
    return _judged(services, _own(path), member, caller)


async def _known(services: Services, path: Path, asking: Caller) -> tuple[Member, Caller]:
    try:
        found = _identified(services, path, asking)
    except Denied as denied:
        if denied.why not in _UNKNOWN or not await _registered(services, _own(path), asking.address, denied):
            raise
        found = _identified(services, path, asking)
    name = found[0].name
    if services.policies.stale(name):
        await services.policies.settled(name)
        found = _identified(services, path, asking)  # what else changed meanwhile counts too
    return found


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


def _own(path: Path) -> bytes | None:
    return path[0] if path else None


def _identified(services: Services, path: Path, asking: Caller) -> tuple[Member, Caller]:
    """The member that a certificate belongs to, and who it is to policies. Raises Denied."""
    known_as, certificate = "", _own(path)
    try:
        identity = identify(certificate, services.rules_for(certificate), services.now())
        known_as = identity.name
        if services.revoked is not None:
            services.revoked(path, services.now())
        member = services.registry.admit(identity)
        client_id = asking.client_id or member.name
        _check_client_id(services.registry, member, client_id)
    except (IdentityError, Refused) as refusal:
        raise Denied(refusal.reason, str(refusal), name=known_as) from refusal
    return member, replace(asking, device=member.name, client_id=client_id, fingerprint=identity.fingerprint)


def _judged(services: Services, certificate: bytes | None, member: Member, caller: Caller) -> Entrant:
    """Who is let in by its policies as well. Raises Denied."""
    rights = services.rights(member, caller, certificate)
    if not rights.may_connect(caller.client_id):
        detail = f"no policy lets {member.name} connect as {caller.client_id[:200]}"
        raise Denied("policy", detail, name=member.name)
    return Entrant(member, caller, rights)


def _asking(candidate: Candidate) -> Caller:
    """What is known of a connection before its certificate is looked at."""
    peer = candidate.peer
    return Caller("", candidate.connect.client_id, peer.host, peer.tls, peer.listener)


def _judge(services: Services, session: Session) -> bool:
    peer = f"{session.remote_address}:{session.remote_port}"
    given, tls = session.client_id or "", session.ssl_object
    path = path_of(tls) if tls is not None else ()
    version = (tls.version() or "") if tls is not None else ""
    asking = Caller("", "" if given.startswith(_GENERATED) else given, session.remote_address or "", version)
    try:
        entrant = _judged(services, _own(path), *_identified(services, path, asking))
    except Denied as denied:
        services.connects.refused(denied.why)
        services.refusals.refused("connect", denied.name, denied.why, str(denied), peer=peer)
        return False
    session.client_id = entrant.caller.client_id
    session.attributes[MEMBER] = entrant.member
    session.attributes[CALLER] = entrant.caller
    services.connects.accepted()
    return True
