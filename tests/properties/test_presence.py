"""Whatever devices, clocks and kills do: timelines are right."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.identity import Kind
from fleet.presence import Presence
from fleet.presence.model import KEPT, Change
from fleet.registry import Registry
from ingester.ledger import Ledger

T = 1_795_392_000_000_000
DEVICES = ("a", "b", "c")

steps = st.one_of(
    st.tuples(st.sampled_from(["connect", "take over", "leave", "send"]), st.sampled_from(DEVICES)),
    st.tuples(st.just("time"), st.integers(0, 10**9)),
    st.tuples(st.just("write"), st.just(0)),
    st.tuples(st.sampled_from(["stop", "kill"]), st.integers(-(10**10), 10**10)),
)
"""`stop` and `kill` end a run; the wall clock of the next one is off by so many microseconds."""


@dataclass
class Reference:
    """What is known of one device: whether it has a connection, and its events so far."""

    connected: bool = False
    events: list[str] = field(default_factory=list)

    def killed(self, unwritten: int) -> None:
        """What was not written is forgotten; who was connected is so no more."""
        self.events = self.events[: len(self.events) - unwritten]
        if self.events and self.events[-1] == "connected":
            self.events.append("disconnected")
        self.connected = False


class Run:
    """A run of the program on a registry, with a steady clock that begins at any time."""

    def __init__(self, registry: Registry, start: int) -> None:
        self.now = start
        self.ledger = Ledger()
        self.presence = Presence(registry, self.ledger, event_seconds=3600, clock=lambda: self.now)

    def open(self, device: str) -> None:
        """As the plugin does."""
        self.ledger.connected(device, self.now)
        self.presence.came(device, {})

    def close(self, device: str, reason: str) -> None:
        self.ledger.disconnected(device)
        self.presence.left(device, {"reason": reason})


def runs_of(script: list[tuple[str, object]]) -> list[tuple[list[tuple[str, object]], str, int]]:
    """The steps of each run, how it ends, and how far the wall clock is off then."""
    found: list[tuple[list[tuple[str, object]], str, int]] = []
    part: list[tuple[str, object]] = []
    for what, value in [*script, ("stop", 0)]:
        if what in {"stop", "kill"}:
            found.append((part, what, int(value)))
            part = []
        else:
            part.append((what, value))
    return found


async def act(run: Run, part: list[tuple[str, object]], known: dict[str, Reference]) -> dict[str, int]:
    """Do the steps of a run; how many events of each device are not written at its end."""
    unwritten = dict.fromkeys(DEVICES, 0)
    for what, value in part:
        if what == "time":
            run.now += int(value)
        elif what == "write":
            await run.presence._write_all()
            unwritten = dict.fromkeys(DEVICES, 0)
        else:
            events = apply(run, known[value], value, what)
            known[value].events += events
            unwritten[value] += len(events)
        for device in DEVICES:
            assert run.presence.connected(device) is known[device].connected
    return unwritten


async def killed(presence: Presence) -> None:
    """Its tasks end, and write nothing."""
    for work in (*presence._works, presence._written._every):
        await work.stop()


async def play(path: Path, script: list[tuple[str, object]]) -> None:
    known = {device: Reference() for device in DEVICES}
    async with Registry(path) as registry:
        for device in DEVICES:
            await registry.add(Kind.DEVICE, device)
    start = T
    for part, ending, off in runs_of(script):
        async with Registry(path) as registry:
            run = Run(registry, start)
            await run.presence.__aenter__()
            unwritten = await act(run, part, known)
            if ending == "kill":
                await killed(run.presence)
                for device, reference in known.items():
                    reference.killed(unwritten[device])
            else:
                for device, reference in known.items():
                    if reference.connected:  # all connections end first
                        reference.events += apply(run, reference, device, "leave")
                await run.presence.__aexit__()
        start = run.now + off
    await check(path, known)


def apply(run: Run, reference: Reference, device: str, what: str) -> list[str]:
    """Do it, to the program and to what is known; what has happened."""
    match what, reference.connected:
        case "connect", False:
            run.open(device)
            reference.connected = True
            return ["connected"]
        case "take over", True:
            run.close(device, "taken_over")
            run.open(device)
            return ["disconnected", "connected"]
        case "leave", True:
            run.close(device, "disconnect")
            reference.connected = False
            return ["disconnected"]
        case "send", True:
            run.ledger.received(device, 1, 1, run.now)
            assert run.presence.last_data(device) == run.now
    return []


async def check(path: Path, known: dict[str, Reference]) -> None:
    async with Registry(path) as registry, Presence(registry, Ledger()) as presence:
        for device, reference in known.items():
            found = (await presence.timeline.of(device))[::-1]
            assert [kept.event.change.value for kept in found] == reference.events[-KEPT:]
            assert [kept.number for kept in found] == list(range(len(reference.events) + 1))[-len(found) :][
                : len(found)
            ]
            epochs = [kept.event.epoch for kept in found]
            assert epochs == sorted(epochs)
            for epoch in Counter(epochs):
                times = [
                    kept.event.at
                    for kept in found
                    if kept.event.epoch == epoch and kept.event.details.get("reason") != "server_died"
                ]
                assert times == sorted(times), "of one run, times never go back"
            changes = [kept.event.change for kept in found]
            assert all(one is not other for one, other in pairwise(changes)), "they alternate"
            assert not changes or changes[-1] is Change.DISCONNECTED


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=40))
def test_timelines_are_what_happened(script: list[tuple[str, object]]):
    """Over connects, take-overs, kills and clocks that are set: what was written is right, and each device has an end
    for each beginning.
    """
    with TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder) / "fleet.db", script))
