"""Who may publish and subscribe to what."""

import pytest

from fleet.errors import InvalidNameError
from fleet.names import check_name, is_name
from fleet.policy.rights import InvalidFilterError, Rights, check_filter, covers, matches
from tests.fleet.policies import own_branch

PUMP = own_branch("pump-1")


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        ("devices/pump-1/telemetry", True),
        ("devices/pump-1/telemetry/a/b/c", True),
        ("devices/pump-1/", True),
        ("devices/pump-1", False),
        ("devices/pump-10/telemetry", False),
        ("devices/pump-2/telemetry", False),
        ("Devices/pump-1/telemetry", False),
        ("/devices/pump-1/telemetry", False),
        ("devices/+/telemetry", False),
        ("devices/pump-1/+", False),
        ("devices/pump-1/#", False),
        ("$SYS/broker", False),
        ("", False),
    ],
)
def test_a_device_publishes_below_its_name(topic: str, allowed: bool):
    """And nowhere else; a name with wildcards is no topic."""
    assert PUMP.may_publish(topic) is allowed


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        ("devices/pump-1/#", True),
        ("devices/pump-1/commands/+", True),
        ("devices/+/commands", False),
        ("devices/#", False),
        ("#", False),
        ("+/pump-1/x", False),
        ("$share/g/devices/pump-1/x", False),
        ("devices/pump-2/#", False),
    ],
)
def test_a_device_subscribes_below_its_name(requested: str, allowed: bool):
    """A filter is allowed when everything it can match is."""
    assert PUMP.may_subscribe(requested) is allowed


def test_an_application_has_its_filters():
    """Exactly what it was given, and nothing without filters."""
    back_end = Rights(("devices/+/commands/#",), ("devices/+/telemetry/#", "plant/a"))
    assert back_end.may_publish("devices/x/commands/open")
    assert back_end.may_retain("devices/x/commands/open")
    assert back_end.may_connect("back/1")
    assert not back_end.may_publish("devices/x/telemetry")
    assert back_end.may_subscribe("devices/+/telemetry/#")
    assert back_end.may_subscribe("devices/x/telemetry")
    assert back_end.may_receive("plant/a")
    assert not back_end.may_subscribe("plant/+")
    assert not Rights((), ()).may_receive("plant/a")


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/+", "a/#", False),
        ("a/+", "a/+", True),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/#", False),
        ("a/b", "a", False),
        ("a/#", "a/#", True),
        ("a", "a/b", False),
    ],
)
def test_covering(have: str, want: str, expected: bool):
    """A filter covers another when it matches all that the other can."""
    assert covers(have, want) is expected


def test_a_wildcard_is_no_topic():
    """A topic name with wildcards matches nothing."""
    assert not matches("#", "a/+")


@pytest.mark.parametrize("bad", ["", "a/b#", "#/a", "a+/b", "a\0b", "x" * 65_536])
def test_filters_that_are_none(bad: str):
    """They are refused by name."""
    with pytest.raises(InvalidFilterError, match="topic filter"):
        check_filter(bad)
    assert check_filter("a/+/#") == "a/+/#"


def test_names():
    """What a name may be."""
    assert is_name("A.b_c:d@e-9")
    for bad in ("", "-a", ".a", "a/b", "a b", "a\n", "ä", "x" * 129, "a\0", "+"):
        with pytest.raises(InvalidNameError):
            check_name(bad)
