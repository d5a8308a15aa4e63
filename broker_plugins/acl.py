"""Topic rights: a device what its policies allow, an application its filters, nobody else anything."""

import structlog
from amqtt.contexts import Action
from amqtt.plugins.base import BaseTopicPlugin
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.engine.hooks import Candidate, Principal
from broker_plugins.services import CALLER, AnyRights, Services, member_of, rights_by_filters
from fleet.identity import Kind
from fleet.policy.compiled import Caller, Compiled
from fleet.registry import CONNECTS, CertificateStatus, Member
from fleet.topics import is_servers

log = structlog.get_logger("fleetgate.mqtt")

_KINDS = {str(kind): kind for kind in Kind}


class TopicRightsPlugin(Attached, BaseTopicPlugin):
    """Decides on publish, subscribe and delivery by the rights of the member that the connection was let in as."""

    def still(self, owner: str) -> AnyRights | None:
        """What our engine calls: the rights of an identity now, None when it may not be connected any more."""
        kind, _, name = owner.partition(":")
        if self.services is None or kind not in _KINDS:
            return None
        member = self.services.registry.find(_KINDS[kind], name)
        if member is None or member.state not in CONNECTS:
            return None
        known = self.services.registry.certificates(member)
        if not any(entry.status is CertificateStatus.ACTIVE for entry in known):
            return None
        return self._offline(member)

    def renew(self, candidate: Candidate, principal: Principal) -> AnyRights | None:
        """What our engine calls when policies changed: the rights of a connection now, None when it has to end."""
        rights = principal.rights
        if self.services is None or not isinstance(rights, Compiled):
            return self.still(principal.owner)
        found = self.services.policies.rights(rights.caller, candidate.peer.certificate)
        return found if found.may_connect(principal.client_id) else None

    def _offline(self, member: Member) -> AnyRights:
        if self.services is None or member.kind is not Kind.DEVICE:
            return rights_by_filters(member)
        return self.services.policies.offline(member.name)

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Judge one topic or filter. Never raises, never fails open; a refused publish is booked as rejected."""
        if self.services is None or topic is None:
            return False
        try:
            return _judge(self.services, session, topic, action)
        except Exception:
            # Supervision point: whatever goes wrong here must not become an open door, nor end the broker.
            log.exception("topic check failed")
            return False


def _judge(services: Services, session: Session | None, topic: str, action: Action | None) -> bool:
    member = member_of(session)
    rights = _rights(services, session, member)
    if action is Action.RECEIVE:
        return rights is not None and rights.may_receive(topic)
    if action is Action.PUBLISH:
        allowed = rights is not None and rights.may_publish(topic) and not is_servers(topic)
    else:
        allowed = action is Action.SUBSCRIBE and rights is not None and rights.may_subscribe(topic)
    if not allowed:
        client_id = (session.client_id if session is not None else None) or ""
        account = services.account_of(member, client_id, topic)
        if action is Action.PUBLISH:
            services.ledger.rejected(account, "not_authorized")
        services.refusals.refused(
            str(action), account, "not_authorized", f"{account} has no right to this topic", topic=topic
        )
    return allowed


def _rights(services: Services, session: Session | None, member: Member | None) -> AnyRights | None:
    """Of a session of a stock broker; compiled each time, so that what changes counts at once."""
    caller = session.attributes.get(CALLER) if session is not None else None
    if member is None or session is None or not isinstance(caller, Caller):
        return None
    tls = session.ssl_object
    return services.rights(member, caller, tls.getpeercert(True) if tls is not None else None)
