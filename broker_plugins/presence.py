"""Who is connected, and when a device was last there."""

import structlog
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.services import member_of

log = structlog.get_logger("fleetgate.mqtt")


class PresencePlugin(Attached):
    """Books connects and disconnects of those who were let in."""

    async def on_broker_client_connected(self, *, client_id: str, client_session: Session) -> None:
        """A connection was let in."""
        if self.services is not None and (member := member_of(client_session)) is not None:
            self.services.ledger.connected(member.name, self.services.clock())
            log.debug("connected", device=member.name, client_id=client_id)

    async def on_broker_client_disconnected(self, *, client_id: str, client_session: Session) -> None:
        """A connection that was let in has ended."""
        if self.services is not None and (member := member_of(client_session)) is not None:
            self.services.ledger.disconnected(member.name)
            log.debug("disconnected", device=member.name, client_id=client_id)
