"""TLS of the device listeners: admission, reasons of failures, and new files without a restart.

OpenSSL alone judges a chain of certificates. `rehearse` asks it about certificates whose private key is not here, so
that what is promised of a certificate is what its handshake will bring.
"""

import contextlib
import ssl
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from fleet.certificates import is_der

# OpenSSL's X509_V_ERR_* numbers, from its x509_vfy.h; all others are "chain"
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
    26: "key_usage",
    34: "unreadable_certificate",
    41: "unreadable_certificate",
    66: "weak_key",
    67: "weak_key",
    68: "weak_signature",
    79: "unknown_ca",
}
_CERTIFICATE = 11  # a handshake message [RFC 5246, 7.4]
_HANDSHAKE_RECORD = b"\x16\x03\x03"  # its type, and TLS 1.2 [RFC 5246, 6.2.1]
_RECORD_BYTES = 16 * 1024
_AUTHORITIES = 256
_DER = 2  # _ssl.ENCODING_DER


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
        return self.stamp() != self._stamp

    def load(self) -> None:
        """Read the files again. A context of its own each time: a CA that is gone from them is gone, and TLS sessions
        of before can't be resumed.
        """
        self.context = self.read()

    def read(self) -> ssl.SSLContext:
        """What `load` takes, not taken yet."""
        self._stamp = self.stamp()
        return server_context(self._certificate, self._key, self._client_cas)

    def stamp(self) -> tuple[tuple[int, int] | None, ...]:
        """Time of change and size of each file that is there."""
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
            data = client_ca.read_bytes()
            if is_der(data):
                context.load_verify_locations(cadata=data)
            else:
                context.load_verify_locations(client_ca)
    # An authority counts by itself: who trusts one below a root need not trust the root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.num_tickets = 1  # one resumption for one connection: each ticket holds the whole certificate
    context.set_alpn_protocols(["mqtt", "http/1.1"])
    return context


def path_of(tls: Any) -> tuple[bytes, ...]:
    """The client's certificates in DER form, as far as `tls` (SSLObject, or what aiofastnet has) knows them.

    Its own is the first, the authority in effect the last: the path that OpenSSL verified. Only its own where the TLS
    session was resumed, which verifies nothing again; none where it sent none.
    """
    own = tls.getpeercert(True)
    if own is None:
        return ()
    verified = verified_path(tls)
    return (own, *map(_shared, verified[1:])) if verified[:1] == (own,) else (own,)


def verified_path(tls: Any) -> tuple[bytes, ...]:
    """See path_of; without looking at how far the handshake is."""
    found = getattr(tls, "get_verified_chain", None)
    if found is None and (inner := getattr(tls, "_sslobj", None)) is not None:  # public since Python 3.13
        return tuple(one.public_bytes(_DER) for one in inner.get_verified_chain() or ())
    return tuple(found() or ()) if found is not None else ()


def rehearse(context: ssl.SSLContext, chain: Sequence[bytes]) -> tuple[bytes, ...]:
    """Show certificates (DER, the client's own first) to a server's context, as a client of TLS 1.2 does.

    The server verifies them when it gets them, before the client proves that it has the private key: no key is needed.
    Returns the path that was verified, as path_of; raises what the handshake would raise, see why_failed.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    for data in (_client_hello(), _certificate_records(chain)):
        incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):  # it took everything, and waits for more
            server.do_handshake()
    return verified_path(server)


@lru_cache(maxsize=_AUTHORITIES)
def _shared(authority: bytes) -> bytes:
    """The same bytes for all connections below an authority."""
    return authority


@cache
def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # from 1.3 on, certificates are sent encrypted
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _certificate_records(chain: Sequence[bytes]) -> bytes:
    """A Certificate message [RFC 5246, 7.4.2], in as many records as it needs."""
    listed = _counted(b"".join(map(_counted, chain)))
    message = bytes([_CERTIFICATE]) + _counted(listed)
    parts = [message[start : start + _RECORD_BYTES] for start in range(0, len(message), _RECORD_BYTES)]
    return b"".join(_HANDSHAKE_RECORD + len(part).to_bytes(2, "big") + part for part in parts)


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data


def why_failed(error: OSError) -> tuple[str, str]:
    """(reason, detail) of a handshake that failed; the reason is one of connections.HANDSHAKE_REASONS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, "chain"), error.verify_message
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
