"""Hands permitted telemetry to the ingester in batches."""

import asyncio
from collections import Counter
from typing import Any

import structlog
from amqtt.session import ApplicationMessage

from broker_plugins.attached import Attached
from broker_plugins.services import member_of
from fleet.identity import Kind
from ingester.batch import Batch

log = structlog.get_logger("fleetgate.mqtt")

_GATHER_SECONDS = 0.02
_GATHER_MESSAGES = 500


class IngestPlugin(Attached):
    """Counts what is received and offers what is permitted. A stock broker has acknowledged it by then, and can't be
    held back: what the ingester refuses is dropped and counted. As nobody waits for the commit, messages gather for a
    little while first: fewer commits, each with more in it.
    """

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._open = Batch()
        self._flushing: asyncio.TimerHandle | None = None

    async def on_broker_message_received(self, *, client_id: str, message: ApplicationMessage | None) -> None:
        """Count a message; amqtt reports every one here, before it is judged."""
        services = self.services
        if services is None or message is None:
            return
        try:
            topic = message.topic or ""
            account = services.account_of(member_of(self.context.get_session(client_id)), client_id, topic)
            services.ledger.received(account, message.qos or 0, len(message.data), services.clock())
            if not topic or topic[0] == "$" or "+" in topic or "#" in topic:
                # amqtt ends the connection over these and reports nothing more of them.
                services.ledger.rejected(account, "topic")
                services.refusals.refused("publish", account, "topic", "not a topic to publish to", topic=topic)
        except Exception:
            # Supervision point: amqtt would lose the exception.
            log.exception("message not counted")

    async def on_broker_message_broadcast(self, *, client_id: str, message: ApplicationMessage) -> None:
        """Take a message that every topic plugin permitted."""
        services = self.services
        if services is None:
            return
        try:
            member = member_of(self.context.get_session(client_id))
            publisher = member.name if member is not None and member.kind is Kind.DEVICE else ""
            found = services.streams.route(message.topic, publisher)
            clears = message.retain and not message.data
            if found is None or (clears and not found.takes_empty(services.clock())):
                services.ledger.routed(services.account_of(member, client_id, message.topic))
                return
            found = services.streams.admitted(found, message.topic)
            self._open.append(found.device, found.stream, services.clock(), bytes(message.data), found.reader)
            if len(self._open) >= _GATHER_MESSAGES:
                self._flush()
            elif self._flushing is None:
                self._flushing = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._flush)
        except Exception:
            # Supervision point: amqtt would lose the exception.
            log.exception("message not taken", topic=message.topic)

    async def close(self) -> None:
        """Offer what is left, then let go of the services."""
        self._flush()
        await super().close()

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        batch, self._open = self._open, Batch()
        services = self.services
        if services is None or not len(batch) or services.pipeline.offer(batch):
            return
        for device, count in Counter(batch.devices).items():
            services.ledger.dropped(device, "intake_full", count)
            services.refusals.refused(
                "message", device, "intake_full", f"{count} messages lost: the ingester takes no more now"
            )
