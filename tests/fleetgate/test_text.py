"""Addresses, times and durations as text."""

import pytest

from fleetgate.addresses import format_address, is_loopback, parse_bind, reachable_host
from fleetgate.errors import ArgumentError
from fleetgate.times import iso, parse_duration, parse_time

NOW = 1_795_392_000_000_000


def test_addresses():
    """host:port, an IPv6 host in brackets, there and back."""
    for text in ("127.0.0.1:8883", "[::1]:0", "gate.example:65535"):
        assert format_address(parse_bind(text)) == text
    for bad in ("", "8883", ":8883", "x:", "x:y", "x:65536", "x:-1", "x:٣"):
        with pytest.raises(ArgumentError, match="address"):
            parse_bind(bad)


def test_loopback():
    """Only what other machines can't reach is loopback."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "gate.example")))
    assert (reachable_host("0.0.0.0"), reachable_host("::"), reachable_host("10.0.0.1")) == (
        "127.0.0.1",
        "::1",
        "10.0.0.1",
    )


def test_times():
    """ISO 8601 in UTC, exact to the microsecond, over all years there are."""
    assert iso(NOW) == "2026-11-23T00:00:00Z"
    assert iso(NOW + 1) == "2026-11-23T00:00:00.000001Z"
    for text in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z"):
        assert iso(parse_time(text, "from", NOW)) == text
    assert parse_time("-1h", "from", NOW) == NOW - 3_600_000_000
    assert parse_time("2026-11-23T01:00:00+01:00", "from", NOW) == NOW
    assert parse_time("2026-11-23", "from", NOW) == NOW
    for bad in ("", "yesterday", "-1x", "-", "1h", "2026-13-01", "0001-01-01T00:00:00+23:00x"):
        with pytest.raises(ArgumentError, match="from"):
            parse_time(bad, "from", NOW)


def test_durations():
    """A number and a unit."""
    assert [parse_duration(text, "bucket") // 1_000_000 for text in ("30s", "1m", "2h", "7d", "1w")] == [
        30,
        60,
        7200,
        604_800,
        604_800,
    ]
    for bad in ("", "0s", "1", "m", "-1m", "1.5h", "1m1s"):
        with pytest.raises(ArgumentError, match="bucket"):
            parse_duration(bad, "bucket")
