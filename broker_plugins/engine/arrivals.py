"""A connection that a listener accepted, and its one outcome. Pure."""

from collections.abc import Callable

from broker_plugins.engine.hooks import Hooks, Peer


class Arrival:
    """One for each accepted connection of any listener: admitted or refused, exactly once.

    The first outcome stands. A connection that ends without one is refused as `aborted`.
    """

    __slots__ = ("_gone", "_hooks", "decided", "peer", "served")

    def __init__(self, hooks: Hooks, peer: Peer, gone: Callable[[], None] | None = None) -> None:
        self._hooks = hooks
        self._gone = gone
        self.peer = peer
        self.decided = False
        self.served = False
        """A protocol serves the connection, and calls `left` when it is over."""
        hooks.arrived()

    def let_in(self) -> None:
        """Record that the client was admitted."""
        if not self.decided:
            self.decided = True
            self._hooks.accepted()

    def refused(self, why: str, detail: str, name: str = "") -> None:
        """Record that the connection was refused; `name` is its device or application, if known."""
        if not self.decided:
            self.decided = True
            self._hooks.refused("connect", name, why, detail, peer=str(self.peer))

    def left(self) -> None:
        """The socket is gone; `gone` is called, once."""
        gone, self._gone = self._gone, None
        try:
            self.refused("aborted", "the client closed the connection before it was let in")
        finally:
            if gone is not None:
                gone()
