"""host:port as text. Pure."""

import ipaddress

from fleetgate.errors import ArgumentError


def parse_bind(text: str) -> tuple[str, int]:
    """Split `host:port`, an IPv6 host in brackets. Raises ArgumentError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ArgumentError(f"address {text!r}: must be host:port, such as 127.0.0.1:8883 or [::1]:8883")
    return host, int(port)


def format_address(address: tuple[str, int]) -> str:
    """Join host and port, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable_host(host: str) -> str:
    """Host that a client on this machine connects to when a server listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
