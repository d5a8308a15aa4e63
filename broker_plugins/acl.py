"""Topic rights: a device below devices/<its name>/, an application its filters, nobody else anything."""

import structlog
from amqtt.contexts import Action
from amqtt.plugins.base import BaseTopicPlugin
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.services import Services, member_of
from fleet.identity import Kind
from fleet.policy import Rights
from fleet.registry import CONNECTS, CertificateStatus

log = structlog.get_logger("fleetgate.mqtt")

_KINDS = {str(kind): kind for kind in Kind}


class TopicRightsPlugin(Attached, BaseTopicPlugin):
    """Decides on publish, subscribe and delivery by the rights of the member that the connection was let in as."""

    def still(self, owner: str) -> Rights | None:
        """What our engine calls: the rights of an identity now, None when it may not be connected any more."""
        kind, _, name = owner.partition(":")
        if self.services is None or kind not in _KINDS:
            return None
        member = self.services.registry.find(_KINDS[kind], name)
        if member is None or member.state not in CONNECTS:
            return None
        known = self.services.registry.certificates(member)
        return member.rights if any(entry.status is CertificateStatus.ACTIVE for entry in known) else None

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
    rights = member.rights if member is not None else None
    if action is Action.RECEIVE:
        return rights is not None and rights.may_receive(topic)
    if action is Action.PUBLISH:
        allowed = rights is not None and rights.may_publish(topic)
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
