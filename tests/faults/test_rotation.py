"""Case 43: certificates are exchanged while messages flow: nothing is lost, nothing twice, counters go on.

Long: three hundred exchanges.
"""

import asyncio
import json

import pytest
from cryptography import x509

from broker_plugins.engine.packets import Ack, Kind, Publish
from fleet.authority import signing_request
from fleet.identity import Kind as Who
from fleet.identity import fingerprint_of
from fleet.registry import CertificateStatus
from tests.broker_plugins.engine.client import Client, Served, served

ROUNDS, LONG_ROUNDS = 5, 300
TOPIC = "devices/a/telemetry"
RENEW = "devices/a/certificate/renew"


class Device:
    """Sends numbered messages, and remembers which were acknowledged."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sent = 0
        self.acknowledged: list[int] = []
        self._numbers: dict[int, int] = {}

    async def send(self, count: int) -> None:
        """Send so many at once, and wait for none of them."""
        for _ in range(count):
            self.sent += 1
            packet_id = self.sent % 60_000 + 1
            self._numbers[packet_id] = self.sent
            await self.client.send(Publish(TOPIC, b'{"n": %d}' % self.sent, 1, packet_id=packet_id))

    async def receive(self) -> Publish | None:
        """Take what comes until an answer, or until everything is acknowledged."""
        while self._numbers:
            packet = await self.client.receive()
            if isinstance(packet, Publish):
                return packet
            assert isinstance(packet, Ack), packet
            assert packet.kind is Kind.PUBACK
            number = self._numbers.pop(packet.packet_id, None)
            if number is not None:
                self.acknowledged.append(number)
        return None


@pytest.mark.timeout(900)
async def test_certificates_are_exchanged_while_messages_flow(tmp_path, long: bool):
    """By the device itself; the old one is revoked once the new one is in use, and its connection ends."""
    async with served(tmp_path / "gate", flapping_connects=0) as gate:
        await gate.add("a")
        device = Device(await connected(gate))
        for _ in range(LONG_ROUNDS if long else ROUNDS):
            await device.send(50)
            old = fingerprint_of(x509.load_pem_x509_certificate((tmp_path / "gate" / "a.pem").read_bytes()))
            private, csr = signing_request("a")
            device._numbers[65_000] = 0
            await device.client.send(Publish(RENEW, json.dumps({"csr": csr.decode()}).encode(), 1, packet_id=65_000))
            answer = await device.receive()
            assert answer is not None
            assert answer.topic == f"{RENEW}/accepted"
            await device.send(50)
            gate.keep("a", private, json.loads(answer.payload)["certificate"].encode())
            await device.receive()
            before = device.client
            device.client = await connected(gate)  # takes the session over: the old connection ends
            assert await before.closed() is not None
            await asyncio.gather(device.send(50), gate.core.registry.set_certificate(old, CertificateStatus.REVOKED))
            await device.receive()
        device.client.drop()
        stored = [fields["n"] for fields in await gate.fields("a")]
        assert stored == list(range(1, device.sent + 1)), "lost, twice, or out of order"
        assert sorted(number for number in device.acknowledged if number) == stored
        account = gate.core.ledger.accounts["a"]
        assert (account.stored, account.duplicate, account.rejected) == (device.sent, 0, 0)
        statuses = [one.status for one in gate.core.registry.certificates(gate.core.registry.get(Who.DEVICE, "a"))]
        assert statuses == [*["revoked"] * (len(statuses) - 1), "active"]
        gate.check_account()


async def connected(gate: Served) -> Client:
    """A connection of device a with its newest certificate, which hears answers."""
    client = await gate.client("a", clean=False, properties={"session_expiry_interval": 60})
    assert await client.subscribe(f"{RENEW}/accepted", 0) == [0]
    return client
