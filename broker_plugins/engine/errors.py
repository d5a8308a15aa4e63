"""Errors of the engine. What a peer does wrong on the wire knows the reason code that MQTT 5 answers it with."""

from broker_plugins.engine.reasons import Reason


class EngineError(Exception):
    """Base of all errors of the engine."""


class Denied(EngineError):  # noqa: N818 - the answer to a question, not a fault
    """A connection is not let in. `why` is one word out of a closed list, for counters; `reason` goes to the client.

    `name` is whose connection it is, as far as that is known.
    """

    def __init__(self, why: str, detail: str, reason: Reason = Reason.NOT_AUTHORIZED, name: str = "") -> None:
        super().__init__(detail)
        self.why = why
        self.reason = reason
        self.name = name


class ProtocolError(EngineError):
    """The peer broke the protocol: its connection is closed [MQTT-4.8.0-1] [MQTT-4.13.1-1]."""

    reason = Reason.PROTOCOL_ERROR
    why = "protocol"
    """One word out of a closed list, for counters."""

    def __init__(self, detail: str, reason: Reason | None = None) -> None:
        super().__init__(detail)
        if reason is not None:
            self.reason = reason


class MalformedPacketError(ProtocolError):
    """Bytes that are no packet."""

    reason = Reason.MALFORMED_PACKET
    why = "malformed"


class PacketTooLargeError(ProtocolError):
    """A packet beyond the limit; nothing of its body was kept."""

    reason = Reason.PACKET_TOO_LARGE
    why = "packet_too_large"


class UnsupportedVersionError(ProtocolError):
    """CONNECT asks for a protocol that is not spoken here."""

    reason = Reason.UNSUPPORTED_PROTOCOL_VERSION
    why = "version"
