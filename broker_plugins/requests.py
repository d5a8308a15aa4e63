"""What devices ask the server itself for, by publishing to a topic of its own: an identity, the next certificate.

Answers go to the connection that asks, below the topic it asked at: `/accepted` or `/rejected`.
"""

import orjson
import structlog

from broker_plugins.engine.hooks import Candidate, Principal
from broker_plugins.services import Services
from fleet.identity import Kind
from fleet.policy.compiled import Compiled
from fleet.provisioning.asking import answer_of, problem_of
from fleet.provisioning.model import Provisioned, ProvisioningError
from fleet.provisioning.service import Provisioning

log = structlog.get_logger("fleetgate.mqtt")

_PROVISION = "provision/"
_RENEW = "/certificate/renew"
_DEVICES = "devices/"

Answer = tuple[str, bytes]


class Requests:
    """Serves requests by the services of provisioning, where there are any."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def serves(self, topic: str) -> bool:
        """Whether a message to this topic is a request."""
        return self._services.provisioning is not None and (
            topic.startswith(_PROVISION) or (topic.endswith(_RENEW) and topic.startswith(_DEVICES))
        )

    async def serve(self, candidate: Candidate, principal: Principal, topic: str, payload: bytes) -> Answer | None:
        """Do what is asked for; what is to be answered, None where nobody could be meant."""
        provisioning = self._services.provisioning
        if provisioning is None:
            return None
        try:
            found = await self._served(provisioning, candidate, principal, topic, payload)
        except ProvisioningError as error:
            return f"{topic}/rejected", orjson.dumps(problem_of(error))
        except Exception:
            # Supervision point: a fault of ours is no answer to be had from the log of a device.
            log.exception("request failed", topic=topic, device=principal.name)
            failed = ProvisioningError("failed", "an error of the server")
            return f"{topic}/rejected", orjson.dumps(problem_of(failed))
        return f"{topic}/accepted", orjson.dumps(answer_of(found))

    async def _served(
        self, provisioning: Provisioning, candidate: Candidate, principal: Principal, topic: str, payload: bytes
    ) -> Provisioned:
        address, (kind, _, name) = candidate.peer.host, principal.owner.partition(":")
        if topic.startswith(_PROVISION):
            if kind != Kind.CLAIM:
                raise ProvisioningError("not_permitted", "this is for claims: a device has an identity")
            return await provisioning.by_claim(name, topic.removeprefix(_PROVISION), payload, address)
        if kind != Kind.DEVICE or topic != f"{_DEVICES}{name}{_RENEW}":
            raise ProvisioningError("not_permitted", "a device renews its own certificate only")
        if not isinstance(principal.rights, Compiled):
            raise ProvisioningError("not_permitted", "its certificate is not known")
        return await provisioning.renew(name, principal.rights.caller.fingerprint, payload, address)
