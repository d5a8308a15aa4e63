"""Requests that may be repeated: with an Idempotency-Key what they ask for is done once, and answered the same."""

import base64
import json
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.operators.model import Caller
from fleet.registry.database import Database
from fleet.registry.schema import idempotency
from fleetgate.http.problems import problem
from ingester.clock import Clock, now_us

KEY_PATTERN = r"^[!-~]{1,255}$"
NOT_REPEATED = frozenset({"token.add", "session.login", "device.import"})
"""Actions whose answer has a secret, which is kept nowhere, and lists, which may be long."""
_is_not_repeated = re.compile(r"/(session|tokens|device-imports)$").search
_DAY_US = 86_400_000_000
_BODY_BYTES = 1024 * 1024
_KEPT_HEADERS = frozenset({"content-type", "etag", "location"})
_ERROR = 300
_is_key = re.compile(KEY_PATTERN).fullmatch


@dataclass(slots=True)
class _Answer:
    """What was answered, as it is gathered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class Idempotency:
    """ASGI middleware, within the one that knows who calls. What went well is kept for a day."""

    def __init__(self, app: ASGIApp, database: Database, clock: Clock = now_us) -> None:
        self._app = app
        self._database = database
        self._clock = clock
        self._running: set[tuple[str, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it as before."""
        key = Headers(scope=scope).get("idempotency-key") if scope["type"] == "http" else None
        caller = scope.get("state", {}).get("caller")
        if key is None or caller is None or scope["method"] != "POST" or _is_not_repeated(scope["path"]):
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        answer: ASGIApp | None = None
        if not _is_key(key):
            answer = problem(422, "Idempotency-Key: 1 to 255 visible characters of ASCII", code="invalid")
        elif body is None:
            answer = problem(413, f"with an Idempotency-Key a body has at most {_BODY_BYTES} bytes", code="too_large")
        elif (caller.name, key) in self._running:
            answer = problem(409, "Idempotency-Key: a request with this key runs now", code="conflict")
        if answer is not None or body is None:
            await (answer or self._app)(scope, receive, send)
            return
        self._running.add((caller.name, key))
        try:
            await self._once(scope, body, send, caller, key)
        finally:
            self._running.discard((caller.name, key))

    async def _once(self, scope: Scope, body: bytes, send: Send, asks: Caller, key: str) -> None:
        caller = asks.name
        # The rights of a credential are part of the key: a credential with fewer rights does not get the answer.
        rights = repr((asks.role, asks.scopes)).encode()
        asked = b"\n".join([scope["path"].encode(), scope["query_string"], rights, body])
        request, now = sha256(asked).hexdigest(), self._clock()
        async with self._database.reading() as connection:
            same = idempotency.c.caller == caller, idempotency.c.key == key
            statement = select(idempotency).where(*same, idempotency.c.at > now - _DAY_US)
            known = (await connection.execute(statement)).first()
        if known is not None and known.request != request:
            detail = "Idempotency-Key: it was used for another request"
            await problem(409, detail, code="idempotency_key")(scope, _nothing, send)
            return
        if known is not None:
            await _replay(known, send)
            return
        answer, messages = _Answer(), [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def gathered(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                headers = Headers(raw=message["headers"])
                answer.headers = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
            else:
                answer.body += message.get("body", b"")
                if not message.get("more_body", False) and answer.status < _ERROR:
                    await self._keep(caller, key, request, answer)
            await send(message)

        await self._app(scope, again, gathered)

    async def _keep(self, caller: str, key: str, request: str, answer: _Answer) -> None:
        now = self._clock()
        row = {
            "caller": caller,
            "key": key,
            "request": request,
            "status": answer.status,
            "headers": json.dumps(answer.headers),
            "body": base64.b64encode(answer.body).decode(),
            "at": now,
        }
        async with self._database.transaction() as connection:
            await connection.execute(idempotency.delete().where(idempotency.c.at <= now - _DAY_US))
            await connection.execute(self._database.upsert(idempotency), [row])


async def _body(receive: Receive) -> bytes | None:
    """All of it; None: too much."""
    found = bytearray()
    while True:
        message = await receive()
        found += message.get("body", b"")
        if len(found) > _BODY_BYTES:
            return None
        if message["type"] != "http.request" or not message.get("more_body", False):
            return bytes(found)


async def _replay(known: Any, send: Send) -> None:
    body = base64.b64decode(known.body)
    headers = {**json.loads(known.headers), "content-length": str(len(body)), "idempotency-replayed": "true"}
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": known.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
