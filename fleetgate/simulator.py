"""A simulated fleet: devices with certificates of their own that send plausible readings at a steady rate."""

import asyncio
import math
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import orjson

_DAY_SECONDS = 86_400
_YEAR_DAYS = 365.25
_CONNECTING_AT_ONCE = 20
_TIMEOUT_SECONDS = 15

Progress = Callable[[int], None]
"""Told how many steps were done since the last call."""


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """One device: its name, and the folder with its key and certificate."""

    name: str
    folder: Path

    @property
    def certificate(self) -> Path:
        """Its certificate."""
        return self.folder / f"{self.name}.pem"

    @property
    def key(self) -> Path:
        """Its private key."""
        return self.folder / f"{self.name}-key.pem"

    def tls(self) -> ssl.SSLContext:
        """Trusts the server's CA and shows this device's certificate. Blocks: reads files."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(slots=True)
class Report:
    """What came of a simulation. Latency in milliseconds, from the moment a message was due to its acknowledgement."""

    devices: int
    connected: int = 0
    sent: int = 0
    acknowledged: int = 0
    seconds: float = 0
    errors: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """One object for printing."""
        ordered = sorted(self.latencies_ms)
        quantiles = {f"p{percent}_ms": _quantile(ordered, percent) for percent in (50, 95, 99)}
        return {
            "devices": self.devices,
            "connected": self.connected,
            "sent": self.sent,
            "acknowledged": self.acknowledged,
            "seconds": round(self.seconds, 2),
            "rate": round(self.acknowledged / self.seconds, 1) if self.seconds else 0.0,
            **quantiles,
            "errors": sum(self.errors.values()),
            "error_kinds": dict(self.errors),
        }


class Readings:
    """Plausible readings of one device: a daily curve of its own, seasons, noise, and a battery that runs down."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._phase = self._random.uniform(0, 2 * math.pi)
        self._mean = self._random.uniform(12, 24)
        self._battery = self._random.uniform(3.6, 4.2)
        self._count = 0

    def at(self, now_seconds: float) -> bytes:
        """The payload of a reading at this time."""
        noise = self._random.gauss
        curve = math.sin(2 * math.pi * now_seconds / _DAY_SECONDS + self._phase)
        season = -math.cos(2 * math.pi * now_seconds / (_DAY_SECONDS * _YEAR_DAYS))
        self._battery = max(2.8, self._battery - 1e-5)
        self._count += 1
        reading = {
            "ts": int(now_seconds * 1000),
            "seq": self._count,
            "temperature": round(self._mean + 6 * curve + 7 * season + noise(0, 0.2), 2),
            "humidity": round(min(100, max(5, 55 - 20 * curve + noise(0, 1))), 1),
            "battery": round(self._battery + noise(0, 0.003), 3),
        }
        return orjson.dumps(reading)


async def simulate(
    devices: list[SimulatedDevice],
    address: tuple[str, int],
    *,
    rate: float,
    seconds: float,
    past_seconds: float,
    qos: int,
    connected: Progress,
    sent: Progress,
) -> Report:
    """Connect the devices to `address`, and send `rate` messages a second in all, for so many seconds.

    With `past_seconds` they are readings of that time until now, evenly spread; otherwise of the moment.
    """
    report = Report(len(devices))
    gate = asyncio.Semaphore(_CONNECTING_AT_ONCE)
    async with AsyncExitStack() as stack:

        async def connect(device: SimulatedDevice) -> aiomqtt.Client | None:
            async with gate:
                try:
                    client = aiomqtt.Client(
                        *address,
                        identifier=device.name,
                        tls_context=await asyncio.to_thread(device.tls),
                        timeout=_TIMEOUT_SECONDS,
                    )
                    await stack.enter_async_context(client)
                except (aiomqtt.MqttError, OSError) as error:
                    report.errors[f"connect: {error}"] += 1
                    return None
                finally:
                    connected(1)
                return client

        clients = await asyncio.gather(*map(connect, devices))
        report.connected = sum(client is not None for client in clients)
        started = time.monotonic()
        interval = len(devices) / rate
        ago = past_seconds / seconds
        now = time.time()
        measured = (lambda due: now - ago * (started + seconds - due)) if past_seconds else (lambda _due: time.time())
        async with asyncio.TaskGroup() as group:
            for position, (device, client) in enumerate(zip(devices, clients, strict=True)):
                if client is not None:
                    first = started + interval * position / len(devices)
                    group.create_task(
                        _send(device, client, report, first, interval, started + seconds, measured, qos, sent, position)
                    )
        report.seconds = time.monotonic() - started
    return report


async def _send(
    device: SimulatedDevice,
    client: aiomqtt.Client,
    report: Report,
    due: float,
    interval: float,
    end: float,
    measured: Callable[[float], float],
    qos: int,
    sent: Progress,
    seed: int,
) -> None:
    readings = Readings(seed)
    topic = f"devices/{device.name}/telemetry"
    while due < end:
        await asyncio.sleep(max(0, due - time.monotonic()))
        try:
            report.sent += 1
            await client.publish(topic, readings.at(measured(due)), qos=qos)
            report.acknowledged += 1
            report.latencies_ms.append((time.monotonic() - due) * 1000)
        except aiomqtt.MqttError as error:
            report.errors[f"publish: {error}"] += 1
            return
        finally:
            sent(1)
        due += interval


def _quantile(ordered: list[float], percent: int) -> float | None:
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 2) if ordered else None
