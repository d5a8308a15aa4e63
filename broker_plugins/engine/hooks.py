"""What the engine asks of the program around it, and the values it asks with."""

from dataclasses import dataclass
from typing import Any, Protocol

from broker_plugins.engine.packets import Connect


class Rights(Protocol):
    """What one identity may do. Cheap, synchronous, and true for as long as the object is in use."""

    def may_publish(self, topic: str) -> bool:
        """Whether a message may be published to this topic name."""
        ...

    def may_retain(self, topic: str) -> bool:
        """Whether a message that may be published there may be retained."""
        ...

    def may_receive(self, topic: str) -> bool:
        """Whether a message of this topic name may be delivered."""
        ...

    def may_subscribe(self, requested: str) -> bool:
        """Whether this filter may be subscribed to; `may_receive` is asked as well, for each message."""
        ...


class Exceeded(Protocol):
    """A message is beyond a quota."""

    @property
    def detail(self) -> str:
        """What is exceeded."""
        ...

    @property
    def pause(self) -> float:
        """After how many seconds it is to be read again; 0: it is rejected."""
        ...


class Meter(Protocol):
    """How much a connection may send."""

    def room(self, size_bytes: int) -> bool:
        """Whether all messages that may be in so many bytes are within the quota, for certain."""
        ...

    def judge(self, payload_bytes: int) -> Exceeded | None:
        """Judge the next message: None, where it is within the quota. One that was to be read again is."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a connection was let in as.

    `owner` is the key of the identity: sessions belong to it, and nobody else takes them over. `name` is whose account
    messages are booked on.
    """

    owner: str
    name: str
    rights: Rights
    client_id: str
    shared: bool = False
    """Whether many clients have this identity: their sessions are not kept, and they may come at any rate."""
    device: str = ""
    """Whose telemetry a message is where its topic does not say; "" for what is no device."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection. `listener` is the scheme it came in by; `path` has the client's certificates, its
    own first, see handshakes.path_of: none where no certificate was shown.
    """

    host: str
    port: int
    listener: str
    path: tuple[bytes, ...] = ()
    tls: str = ""
    cipher: str = ""

    @property
    def certificate(self) -> bytes | None:
        """The client's own, in DER form."""
        return self.path[0] if self.path else None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who asks to be let in."""

    peer: Peer
    connect: Connect
    client: Any = None
    """The connection, where plugins are to be asked about it."""


class Hooks(Protocol):
    """Called on the event loop. None of these may raise, but `admit`, which answers no with Denied."""

    checks_topics: bool
    """Whether `agrees` has to be asked: for every topic and filter, each time."""

    def sees(self, event: str) -> bool:
        """Whether anybody wants this event (named as in `fire`)."""
        ...

    async def admit(self, candidate: Candidate) -> Principal:
        """Judge a connection by its own certificate and CONNECT; raises Denied."""
        ...

    def still(self, owner: str) -> "Rights | None":
        """The rights of an identity now; None when it may not be connected any more."""
        ...

    def rejudge(self, candidate: Candidate) -> "Rights | None":
        """The rights of a connection that was let in before, judged again; None when it would be refused now."""
        ...

    def renew(self, candidate: Candidate, principal: Principal) -> "Rights | None":
        """The rights of a connection whose identity stands, anew; None when they do not let it be connected."""
        ...

    def meter(self, principal: Principal) -> Meter | None:
        """What a connection is read by; None: it may send as much as it likes."""
        ...

    def serves(self, topic: str) -> bool:
        """Whether a message to this topic, which may be published, is a request to the server itself."""
        ...

    async def serve(
        self, candidate: Candidate, principal: Principal, topic: str, payload: bytes
    ) -> tuple[str, bytes] | None:
        """Do what a client asks for: topic and payload of the answer to it, None: there is none."""
        ...

    def owner_of(self, client_id: str) -> str:
        """The owner of a client id, also while another client uses it."""
        ...

    async def agrees(self, client: Any, client_id: str, topic: str, action: str) -> bool:
        """Whether everybody asked agrees to a client's publish, subscribe or receive."""
        ...

    def arrived(self) -> None:
        """Count a connection that was accepted; `accepted`, or `refused` with connect, follows exactly once."""
        ...

    def accepted(self) -> None:
        """Count a connection that was let in."""
        ...

    def refused(self, what: str, name: str, why: str, detail: str, topic: str = "", peer: str = "") -> None:
        """Log what was refused: what is connect, publish, subscribe, message or connection. Counts connects: only an
        Arrival says connect.
        """
        ...

    def fire(self, event: str, **values: Any) -> None:
        """Tell whoever wants to know. Must only be called for what `sees` says yes to."""
        ...
