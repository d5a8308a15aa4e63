"""The history as settings and definitions of streams want it."""

import re
from collections.abc import Iterable
from importlib.util import find_spec

from fleetgate.errors import ArgumentError
from fleetgate.settings import HistorySettings
from ingester.history.rules import Rule, Rules
from ingester.history.sealer import Policy
from ingester.streams import Definition

_FRESH_SECONDS, _LOOK_SECONDS = 10, 5
_CAPTURED = re.compile(r"\{[a-z_][a-z0-9_]*\}")


def available() -> bool:
    """Whether what seals and reads files is installed: the extra `analytics`."""
    return find_spec("pyarrow") is not None


def needs_analytics() -> None:
    """Raises ArgumentError where it is not."""
    if not available():
        raise ArgumentError("this needs the extra analytics: pip install fleetgate[analytics]")


def policy_of(settings: HistorySettings) -> Policy:
    """When the journal is sealed."""
    age = settings.seal_minutes * 60
    return Policy(
        age,
        settings.seal_bytes,
        fresh_seconds=min(_FRESH_SECONDS, age / 2),
        look_seconds=min(_LOOK_SECONDS, age / 2),
        free_bytes=settings.free_bytes,
    )


def rules_of(definitions: Iterable[Definition], settings: HistorySettings) -> Rules:
    """What definitions say of the history of their streams."""
    return Rules(
        tuple(
            Rule(
                _CAPTURED.sub("*", one.stream),
                one.keep_payload,
                one.keep_days or None,
                one.keep_bytes or None,
                one.duplicates if "duplicates" in one.source else None,
            )
            for one in definitions
        ),
        settings.keep_payload,
        {"1m": settings.minutes_days, "1h": settings.hours_days},
    )
