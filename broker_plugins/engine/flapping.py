"""Identities that connect again and again: refused for a while. Pure; told what time it is."""


class Flapping:
    """At most `per_minute` connects of an identity in a minute (0: any number), else none for `pause_seconds`."""

    def __init__(self, per_minute: int, pause_seconds: float) -> None:
        self._per_minute = per_minute
        self._pause = pause_seconds
        self._connects: dict[str, list[float]] = {}
        self._banned: dict[str, float] = {}

    def connects(self, owner: str, now: float) -> bool:
        """An identity connects at `now` (monotonic seconds). False when it is to be refused."""
        if not self._per_minute:
            return True
        if self._banned.get(owner, 0.0) > now:
            return False
        self._banned.pop(owner, None)
        recent = [moment for moment in self._connects.get(owner, ()) if moment > now - 60]
        self._connects[owner] = recent
        if len(recent) >= self._per_minute:
            self._banned[owner] = now + self._pause
            del self._connects[owner]
            return False
        recent.append(now)
        return True

    def forget(self, owner: str) -> None:
        """Forget an identity: the next one of its name begins without history."""
        self._banned.pop(owner, None)
        self._connects.pop(owner, None)

    def forget_old(self, now: float) -> None:
        """Let go of what no longer counts."""
        self._banned = {owner: until for owner, until in self._banned.items() if until > now}
        self._connects = {owner: recent for owner, recent in self._connects.items() if recent[-1] > now - 60}
