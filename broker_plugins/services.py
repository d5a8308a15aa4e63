"""What the plugins need of the rest of the program, in one value."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from amqtt.session import Session

from broker_plugins.connections import Connects
from broker_plugins.refusals import Refusals
from fleet.identity import Kind, Rules
from fleet.judge import Revoked
from fleet.policy.compiled import Caller, Compiled
from fleet.policy.decisions import Decisions
from fleet.policy.rights import Rights
from fleet.policy.service import Policies
from fleet.presence import Presence
from fleet.provisioning.service import Provisioning
from fleet.quota.service import Quotas
from fleet.registry import Member, Registry
from ingester.clock import Clock, now_us
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.streams import Streams

MEMBER = "fleetgate.member"
"""Key of the authenticated member in amqtt's Session.attributes. A session without it is nobody's."""

CALLER = "fleetgate.caller"
"""Key of the Caller that it was authenticated as."""

AnyRights = Compiled | Rights


@dataclass(frozen=True)
class Services:
    """Everything the plugins use."""

    registry: Registry
    policies: Policies
    decisions: Decisions
    pipeline: Pipeline
    ledger: Ledger
    connects: Connects
    refusals: Refusals
    rules: Rules
    clock: Clock = now_us
    elapsed: Clock = now_us
    """Goes on evenly, over restarts as well: for how long sessions and what waits in them live."""
    revoked: Revoked | None = None
    """See fleet.judge; None: certificates are not judged."""
    provisioning: Provisioning | None = None
    """How devices get in by themselves; None: they do not."""
    quotas: Quotas | None = None
    """How much devices may send; None: as much as they like."""
    streams: Streams = field(default_factory=Streams)
    presence: Presence | None = None
    """Who is told that devices come and go; None: nobody."""

    def now(self) -> datetime:
        """Wall time, which certificate dates are judged by."""
        return datetime.fromtimestamp(self.clock() / 1e6, UTC)

    def account_of(self, member: Member | None, client_id: str, topic: str) -> str:
        """Whose account a message is booked on: the device's it is telemetry of, else the sender's."""
        if member is None:
            return client_id
        if member.kind is Kind.DEVICE:
            return member.name
        found = self.streams.route(topic, "")
        if found is not None and rights_by_filters(member).may_publish(topic):
            return found.device
        return self.registry.account_of(member.kind, member.name)

    def rules_for(self, certificate: bytes | None) -> Rules:
        """How this certificate names its device: as its authority says, else as the settings do."""
        return self.rules if self.provisioning is None else self.provisioning.authorities.rules(certificate, self.rules)

    def rights(self, member: Member, caller: Caller, certificate: bytes | None) -> AnyRights:
        """What a member may do by a connection."""
        if member.kind is not Kind.DEVICE:
            return rights_by_filters(member)
        return self.policies.rights(caller, certificate)


def rights_by_filters(member: Member) -> Rights:
    """Of an application or a claim: the filters that it was given."""
    return Rights(member.publish, member.subscribe)


def member_of(session: Session | None) -> Member | None:
    """The member that this session was authenticated as; None for nobody."""
    found = session.attributes.get(MEMBER) if session is not None else None
    return found if isinstance(found, Member) else None
