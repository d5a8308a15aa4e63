"""Settings that can have no effect beside the others are refused with their name. Pure."""

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from fleetgate.errors import SettingsError
from fleetgate.settings import OidcSettings, Settings

_NEEDS = {
    "mqtt.wss_origins": "wss_bind",
    "mqtt.flapping_seconds": "flapping_connects",
    "presence.flapping_seconds": "flapping_connects",
    "history.seal_minutes": "seal",
    "history.seal_bytes": "seal",
    "history.keep_payload": "seal",
    "metrics.stale_after": "max_devices",
    **{f"oidc.{key}": "issuer" for key in OidcSettings.model_fields if key != "issuer"},
}
"""Settings that have an effect only where another one of their section is set."""

_ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]*://[^\s/?#@*A-Z]+")
_DEFAULT_PORT = re.compile(r"http://.+:80|https://.+:443")


def check_effects(settings: Settings) -> None:
    """Raises SettingsError for the first setting that can have no effect."""
    for problem in _problems(settings):
        raise SettingsError(problem)


def _problems(settings: Settings) -> Iterator[str]:
    for place, needed in _NEEDS.items():
        section, key = place.split(".")
        given: Any = getattr(settings, section)
        if getattr(given, key) != type(given).model_fields[key].default and not getattr(given, needed):
            yield f"{place}: has no effect without {section}.{needed}"
    for origin in settings.mqtt.wss_origins:
        if not _ORIGIN.fullmatch(origin):
            yield f"mqtt.wss_origins: {origin[:80]!r} is no origin: https://host or https://host:port, in lower case"
        elif _DEFAULT_PORT.fullmatch(origin):
            yield f"mqtt.wss_origins: {origin[:80]!r}: browsers leave out the port"
    for proxy in settings.http.proxies:
        if proxy != "*" and not _is_network(proxy):
            yield f"http.proxies: {proxy[:80]!r} is no address, such as 10.0.0.1 or 10.0.0.0/24"


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True
