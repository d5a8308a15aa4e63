"""The program in this process, with two devices and a back end."""

import pytest

from fleet.identity import Kind
from tests.broker_plugins.engine.client import served


@pytest.fixture
async def gate(tmp_path):
    """Devices a and b; application back, which sees all devices and commands them."""
    async with served(tmp_path / "gate") as made:
        await made.add("a")
        await made.add("b")
        await made.add("back", Kind.APPLICATION, ("devices/+/commands/#",), ("devices/#", "$SYS/#"))
        yield made
