"""TLS of the device listeners: who may complete a handshake, why one fails, and new files without a restart."""

import ssl
from collections.abc import Sequence
from pathlib import Path

# OpenSSL's X509_V_ERR_* numbers, from its x509_vfy.h
_BY_VERIFY_CODE = {
    2: "unknown_ca",
    7: "unknown_ca",
    9: "not_yet_valid",
    10: "expired",
    13: "unreadable_certificate",
    14: "unreadable_certificate",
    18: "unknown_ca",
    19: "unknown_ca",
    20: "unknown_ca",
    21: "unknown_ca",
    24: "unknown_ca",
    25: "chain",
    26: "key_usage",
    34: "unreadable_certificate",
    41: "unreadable_certificate",
    47: "chain",
    48: "chain",
    66: "weak_key",
    67: "weak_key",
    68: "weak_key",
}


class TlsFiles:
    """The server's certificate and key, and the CAs of clients; `context` is for connections from now on.

    Raises OSError (ssl.SSLError is one) when the files can't be used.
    """

    def __init__(self, certificate: Path, key: Path, client_cas: Sequence[Path]) -> None:
        self._certificate = certificate
        self._key = key
        self._client_cas = tuple(client_cas)
        self.load()

    def changed(self) -> bool:
        """Whether a file was written since it was last read."""
        return self._now() != self._stamp

    def load(self) -> None:
        """Read the files again. A context of its own each time: a CA that is gone from them is gone, and TLS sessions
        of before can't be resumed.
        """
        self._stamp = self._now()
        self.context = server_context(self._certificate, self._key, self._client_cas)

    def _now(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(map(_stamp, (self._certificate, self._key, *self._client_cas)))


class _ClientsUndecoded(ssl.SSLContext):
    """Verifies as it is set, and says that it does not: then the transport does not decode the client's certificate.

    The transport does so when a handshake is complete, for a dictionary that nobody here reads. What it can't decode
    ends the connection without a word, and errors that this leaves in OpenSSL's queue end those of others. Certificates
    are read at CONNECT, from their DER form.
    """

    @property  # type: ignore[override]  # a plain int, to mypy
    def verify_mode(self) -> ssl.VerifyMode:
        """CERT_NONE, whatever it was set to."""
        return ssl.CERT_NONE

    @verify_mode.setter
    def verify_mode(self, mode: ssl.VerifyMode) -> None:
        ssl.SSLContext.verify_mode.__set__(self, mode)  # type: ignore[attr-defined]  # a property at run time


def server_context(certificate: Path, key: Path, client_cas: Sequence[Path]) -> ssl.SSLContext:
    """Context that completes a handshake only with a client certificate signed by one of `client_cas`; TLS 1.2 up."""
    context = _ClientsUndecoded(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    for client_ca in client_cas:
        if client_ca.exists():
            context.load_verify_locations(client_ca)
    # An authority counts by itself: who trusts one below a root need not trust the root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.num_tickets = 1  # one resumption for one connection: each ticket holds the whole certificate
    context.set_alpn_protocols(["mqtt", "http/1.1"])
    return context


def why_failed(error: OSError) -> tuple[str, str]:
    """(reason, detail) of a handshake that failed; the reason is one of connections.HANDSHAKE_REASONS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, "tls"), error.verify_message
    if isinstance(error, ssl.SSLError):
        if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return "no_certificate", "the client sent no certificate"
        return "tls", (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, ConnectionAbortedError):  # asyncio's type for the handshake timeout
        return "timeout", "no TLS handshake in time"
    return "tls", str(error) or "the client closed the connection"


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
