"""The program in this process, with two devices and a back end."""

import pytest

from fleet.identity import Kind
from ingester.errors import StoreUnavailable
from tests.broker_plugins.engine.client import Served, served


@pytest.fixture
async def gate(tmp_path):
    """Devices a and b; application back, which sees all devices and commands them."""
    async with served(tmp_path / "gate") as made:
        await made.add("a")
        await made.add("b")
        await made.add("back", Kind.APPLICATION, ("devices/+/commands/#",), ("devices/#", "$SYS/#"))
        yield made


@pytest.fixture
def outage(gate: Served, monkeypatch):
    """The store can't write until the switch is turned back."""
    return out_of_order(gate, monkeypatch)


def out_of_order(gate: Served, monkeypatch) -> dict[str, bool]:
    """A switch for a gate's store, down at first."""
    real, state = gate.core.store.write, {"down": True}

    async def write(*arguments):
        if state["down"]:
            raise StoreUnavailable("out of order, says the test")
        await real(*arguments)

    monkeypatch.setattr(gate.core.store, "write", write)
    return state
