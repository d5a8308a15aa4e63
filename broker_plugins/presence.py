"""Who is connected, and when a device was last there."""

import structlog
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.auth import owner_of
from broker_plugins.services import member_of
from fleet.identity import Kind

log = structlog.get_logger("fleetgate.mqtt")


class PresencePlugin(Attached):
    """Books connects and disconnects of those who were let in."""

    def connected(self, name: str, owner: str) -> None:
        """What our engine calls: a connection of this device or application was let in."""
        if self.services is not None:
            self.services.ledger.connected(name, self.services.clock())
            if owner.partition(":")[0] == Kind.DEVICE:
                self.services.registry.connected(name)

    def disconnected(self, name: str) -> None:
        """What our engine calls: it has ended."""
        if self.services is not None:
            self.services.ledger.disconnected(name)

    async def on_broker_client_connected(self, *, client_id: str, client_session: Session) -> None:
        """A connection was let in."""
        if self.services is not None and (member := member_of(client_session)) is not None:
            self.connected(member.name, owner_of(member))
            log.debug("connected", device=member.name, client_id=client_id)

    async def on_broker_client_disconnected(self, *, client_id: str, client_session: Session) -> None:
        """A connection that was let in has ended."""
        if self.services is not None and (member := member_of(client_session)) is not None:
            self.disconnected(member.name)
            log.debug("disconnected", device=member.name, client_id=client_id)
