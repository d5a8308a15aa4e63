"""What a client that is not let in is answered: one table for both versions, as common brokers answer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from pwdlib import PasswordHash

from broker_plugins.engine.packets import V5, V311
from broker_plugins.engine.reasons import Reason
from fleet.authority import read_request, signing_request
from fleet.identity import Kind as Who
from fleet.registry import State
from tests.broker_plugins.engine.client import Served, served, will

CREDENTIALS = {"username": "user", "password": b"secret"}
NOT_AUTHORIZED = (5, Reason.NOT_AUTHORIZED)


class Case(NamedTuple):
    """A CONNECT over TLS `as_` somebody, or "" without; `answers` in 3.1.1 and in 5, None: no such packet there."""

    name: str
    answers: tuple[int | None, int]
    as_: str = ""
    client_id: str = ""
    more: Mapping[str, Any] = MappingProxyType({})


CASES = (
    Case("wrong password", NOT_AUTHORIZED, client_id="x", more={"username": "user", "password": b"wrong"}),
    Case("unknown user", NOT_AUTHORIZED, client_id="x", more={"username": "nobody", "password": b"secret"}),
    Case("no password", NOT_AUTHORIZED, client_id="x", more={"username": "user"}),
    Case("no credentials", NOT_AUTHORIZED, client_id="x"),
    Case("password alone", (None, Reason.NOT_AUTHORIZED), client_id="x", more={"password": b"secret"}),
    Case("certificate, wrong password", NOT_AUTHORIZED, "a", more={"username": "user", "password": b"wrong"}),
    Case("certificate of nobody", NOT_AUTHORIZED, "stranger", more=CREDENTIALS),
    Case("somebody else's client id", NOT_AUTHORIZED, "a", "b", CREDENTIALS),
    Case("disabled", NOT_AUTHORIZED, "disabled", more=CREDENTIALS),
    Case("revoked", NOT_AUTHORIZED, "revoked", more=CREDENTIALS),
    Case("a will without a right", NOT_AUTHORIZED, "a", more={**CREDENTIALS, "will": will("devices/b/telemetry")}),
    Case("a session without a client id", (2, 0), "a", more={**CREDENTIALS, "clean": False}),
    Case(
        "a method",
        (None, Reason.BAD_AUTHENTICATION_METHOD),
        "a",
        more={**CREDENTIALS, "properties": {"authentication_method": "x"}},
    ),
    Case("right", (0, 0), "a", more=CREDENTIALS),
    Case("right, without a certificate", (0, 0), client_id="x", more=CREDENTIALS),
)


@pytest.fixture
async def gate(tmp_path):
    """A password is asked for beside the certificate, and is enough without."""
    (tmp_path / "passwd").write_text(f"user:{PasswordHash.recommended().hash('secret')}\n")
    plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(tmp_path / "passwd")}}
    async with served(tmp_path / "gate", plain_bind="127.0.0.1:0", plugins=plugins, flapping_connects=0) as made:
        for name in ("a", "b", "disabled", "revoked"):
            await made.add(name)
        await made.core.registry.set_state(Who.DEVICE, "disabled", State.SUSPENDED)
        await made.core.registry.revoke(Who.DEVICE, "revoked")
        private, request = signing_request("stranger")
        made.keep("stranger", private, made.core.authority.issue(Who.DEVICE, "stranger", read_request(request)).pem)
        yield made


async def test_answers(gate: Served):
    """3.1.1 and 5 say the same, as far as they have words for it; then the connection is closed."""
    wrong = {}
    for case in CASES:
        for version, expected in zip((V311, V5), case.answers, strict=True):
            if expected is None:
                continue
            async with await gate.open(case.as_ or None, version, "mqtts" if case.as_ else "mqtt") as client:
                found = (await client.connect(case.client_id, **case.more)).reason
                if found != expected:
                    wrong[case.name, version] = found
                if found:
                    assert await client.receive() is None
    assert not wrong
