"""Sessions of browsers: who logged in, for a time, on this run of the program."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleet.operators.model import Caller, caller_of
from fleet.operators.secrets import digest_of, same
from fleet.operators.service import Operators

SECONDS = 12 * 3600
"""How long a login counts."""
_IDLE_SECONDS = 3600
_MOST = 1000


@dataclass(slots=True)
class Session:
    """A login. `csrf` is what a page has to say with everything that changes something."""

    operator: str
    csrf: str
    until: float
    used: float


class Sessions:
    """By the digest of a secret that only the browser's cookie has. `now` is steady, in seconds.

    An operator who is changed or gone has to log in again.
    """

    def __init__(self, operators: Operators, now: Callable[[], float] = time.monotonic) -> None:
        self._operators = operators
        self._now = now
        self._sessions: dict[str, Session] = {}
        operators.changed.append(self._changed)

    def begin(self, operator: str) -> tuple[str, Session]:
        """Log an operator in; returns the cookie's secret, told this once, and the session."""
        now, secret = self._now(), secrets.token_urlsafe(32)
        while len(self._sessions) >= _MOST:
            del self._sessions[min(self._sessions, key=lambda found: self._sessions[found].used)]
        made = self._sessions[digest_of(secret)] = Session(operator, secrets.token_urlsafe(32), now + SECONDS, now)
        return secret, made

    def find(self, secret: str) -> tuple[Caller, Session] | None:
        """Who has this cookie; None: nobody any more."""
        found = self._sessions.get(key := digest_of(secret))
        operator = self._operators.find(found.operator) if found is not None else None
        now = self._now()
        if found is None or operator is None or operator.disabled:
            return None
        if now >= found.until or now >= found.used + _IDLE_SECONDS:
            del self._sessions[key]
            return None
        found.used = now
        return caller_of(operator, "session"), found

    def holds(self, session: Session, csrf: str) -> bool:
        """Whether a request was made by a page of ours."""
        return same(session.csrf, csrf)

    def end(self, secret: str) -> None:
        """Log out."""
        self._sessions.pop(digest_of(secret), None)

    def _changed(self, name: str) -> None:
        self._sessions = {key: found for key, found in self._sessions.items() if found.operator != name}
