"""What policies decide, for one connection."""

import pytest

from fleet.policy.compiled import Decision, UndecidedError
from fleet.policy.condition import read_conditions
from fleet.policy.document import Action
from fleet.policy.pattern import CONNECTION
from tests.fleet.policies import OWN_BRANCH, compiled

NOON = 1_795_392_000_000_000 // 86_400_000_000 * 86_400_000_000 + 43_200_000_000
HOUR = 3_600_000_000


def test_deny_wins_and_nothing_means_no():
    """In whatever order they stand, and with the statement that decided."""
    rights = compiled(
        "- {allow: publish, to: 'a/*', name: all}\n- {deny: publish, to: 'a/x', name: not x}",
        "- {deny: publish, to: 'a/y'}\n- {allow: '*', to: 'a/*'}",
    )
    assert rights.decide(Action.PUBLISH, "a/b") == Decision(True, "allowed", "p1", 1, "all")
    assert rights.decide(Action.PUBLISH, "a/x") == Decision(False, "explicit_deny", "p1", 1, "not x")
    assert rights.decide(Action.PUBLISH, "a/y") == Decision(False, "explicit_deny", "p2", 1, "Statement[0]")
    assert rights.decide(Action.PUBLISH, "b") == Decision(False, "not_allowed")
    assert rights.may_subscribe("a/+/#")
    assert not rights.may_publish("a/+/#"), "no topic name"
    assert not compiled().may_connect("x")
    assert compiled("- {allow: retain, to: a}").may_retain("a")


def test_what_was_decided_is_remembered_and_told():
    """An allowed topic is told of once, a refused one each time; the memory has a bound."""
    told = []
    rights = compiled("- {allow: publish, to: 'a/*'}", seen=lambda *found: told.append(found[1:3]))
    for topic in ("a/b", "a/b", "x", "x"):
        rights.may_publish(topic)
    assert told == [(Action.PUBLISH, "a/b"), (Action.PUBLISH, "x"), (Action.PUBLISH, "x")]
    assert rights.decide(Action.PUBLISH, "a/b") is rights.decide(Action.PUBLISH, "a/b")
    for number in range(3000):
        assert rights.may_publish(f"a/{number}")
    assert len(rights._known[Action.PUBLISH]) <= 250
    assert rights.may_publish("a/" + "x" * 2000)
    assert not any(len(topic) > 256 for topic in rights._known[Action.PUBLISH])


@pytest.mark.parametrize("value", ["a/b", "+", "#", "a+", "", None, "\0", "a/../b"])
def test_values_that_bring_structure_are_not_used(value):
    """They allow nothing, and take no denial away."""
    more = {} if value is None else {"device_attributes_area": value}
    text = """
- {allow: publish, to: 'area/${device.attributes.area}/*'}
- {allow: publish, to: 'open/*'}
- {deny: publish, to: 'open/${device.attributes.area}/secret'}
"""
    rights = compiled(text, **more)
    for topic in ("area/a/b/x", "area//x", "area/x/y", f"area/{value}/x"):
        assert not rights.may_publish(topic)
    assert rights.may_publish("open/a")
    for topic in ("open/a/secret", "open//secret", "open/a/b/secret"):
        assert not rights.may_publish(topic)


@pytest.mark.parametrize("value", ["*", "?", ".*", "[a]", "${device.id}", "$SYS", "ключ", "a b", '"', "%s", "a\nb"])
def test_values_are_text(value: str):
    """Nothing in them means anything."""
    rights = compiled("- {allow: publish, to: 'area/${device.attributes.area}/x'}", device_attributes_area=value)
    assert rights.may_publish(f"area/{value}/x")
    for other in ("area/a/x", "area/aa/x", "area/b/x", "area/p/x"):
        assert not rights.may_publish(other)


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (3, "3"), (2.5, "2.5"), (3.0, "3")])
def test_numbers_and_booleans_have_one_text(value, text: str):
    """As people write them."""
    rights = compiled("- {allow: publish, to: 'n/${device.attributes.n}'}", device_attributes_n=value)
    assert rights.may_publish(f"n/{text}")


@pytest.mark.parametrize(
    ("operator", "key", "wanted", "actual", "holds"),
    [
        ("StringEquals", "device.type", "pump", "pump", True),
        ("StringEquals", "device.type", ["a", "pump"], "pump", True),
        ("StringEquals", "device.type", "Pump", "pump", False),
        ("StringEquals", "device.type", "*", "pump", False),
        ("StringEquals", "device.type", "pump", None, False),
        ("StringEquals", "device.type", "${device.id}", "d", True),
        ("StringEquals", "device.type", "${device.attributes.x}", "d", False),
        ("StringNotEquals", "device.type", "pump", "valve", True),
        ("StringNotEquals", "device.type", "pump", None, True),
        ("StringEqualsIgnoreCase", "device.type", "PUMP", "pump", True),
        ("StringNotEqualsIgnoreCase", "device.type", "PUMP", "pump", False),
        ("StringLike", "device.type", "p*p", "pump", True),
        ("StringLike", "device.type", "${device.id}*", "d/x+", True),
        ("StringLike", "device.type", "${device.attributes.x}*", "d", False),
        ("StringNotLike", "device.type", "p*", "pump", False),
        ("NumericLessThan", "device.attributes.n", 5, 4.5, True),
        ("NumericLessThan", "device.attributes.n", "5", "4", True),
        ("NumericLessThan", "device.attributes.n", 5, "x", False),
        ("NumericLessThan", "device.attributes.n", 5, True, False),
        ("NumericLessThanEquals", "device.attributes.n", 5, 5, True),
        ("NumericGreaterThan", "device.attributes.n", 5, 5, False),
        ("NumericGreaterThanEquals", "device.attributes.n", 5, 5, True),
        ("NumericEquals", "device.attributes.n", 5, 5.0, True),
        ("NumericNotEquals", "device.attributes.n", 5, 5, False),
        ("Bool", "device.attributes.on", True, True, True),
        ("Bool", "device.attributes.on", "false", "False", True),
        ("Null", "device.attributes.on", True, None, True),
        ("Null", "device.attributes.on", "true", "x", False),
        ("Null", "device.attributes.on", False, "x", True),
        ("IpAddress", "source.address", "10.0.0.0/8", "10.2.3.4", True),
        ("IpAddress", "source.address", "10.0.0.0/8", "::ffff:10.2.3.4", True),
        ("IpAddress", "source.address", ["192.0.2.1", "2001:db8::/32"], "2001:db8::1", True),
        ("IpAddress", "source.address", "10.0.0.0/8", "not one", False),
        ("NotIpAddress", "source.address", "10.0.0.0/8", "11.0.0.1", True),
        ("DateLessThan", "time", "2027-01-01T00:00:00Z", NOON, True),
        ("DateLessThanEquals", "time", "2020-01-01", NOON, False),
        ("DateGreaterThan", "time", "2020-01-01", NOON, True),
        ("DateGreaterThanEquals", "time", "2027-01-01", NOON, False),
        ("TimeOfDay", "time", "12:00-13:00", NOON, True),
        ("TimeOfDay", "time", "11:00-12:00", NOON, False),
        ("TimeOfDay", "time", "22:00-06:00", NOON, False),
        ("TimeOfDay", "time", "22:00-06:00", NOON + 11 * HOUR, True),
        ("NotTimeOfDay", "time", "22:00-06:00", NOON, True),
    ],
)
def test_conditions(operator, key, wanted, actual, holds):
    """Each operator, with what is there and what is not."""
    (condition,) = read_conditions({operator: {key: wanted}}, "here")
    values = {"device.id": "d", **({} if actual is None else {key: actual})}
    assert condition.holds(values, frozenset()) is holds
    assert condition.holds(values, frozenset({key})) is None
    assert set(condition.needs()) <= {key, "device.id", "device.attributes.x"}


def test_a_condition_on_time_says_when_it_changes():
    """Then, and not before, the rights are made anew."""
    text = "- {allow: publish, to: a, if: {TimeOfDay: {time: ['13:00-14:00', '22:00-06:00']}}}"
    assert compiled(text, time=NOON).until(NOON) == NOON + HOUR
    assert compiled(text, time=NOON).until(NOON + 11 * HOUR) == NOON + 18 * HOUR
    at = "- {allow: publish, to: a, if: {DateGreaterThan: {time: '2026-11-23T12:00:00Z'}}}"
    moment = compiled(at, time=NOON).until(0)
    assert not compiled(at, time=moment).may_publish("a")
    assert compiled(at, time=moment).until(moment) == moment + 1
    assert compiled(at, time=moment + 1).may_publish("a")
    assert compiled(at, time=NOON).until(moment + 1) is None
    assert compiled(OWN_BRANCH, device_id="a").until(NOON) is None
    both = "- {allow: publish, to: a, if: {TimeOfDay: {time: '13:00-14:00'}, Bool: {device.attributes.on: true}}}"
    assert compiled(both, time=NOON).until(NOON) == NOON + HOUR


def test_what_is_not_known_counts_in_favour_of_who_is_not_connected():
    """And can't be explained."""
    text = """
- {allow: receive, to: 'a/*', if: {IpAddress: {source.address: 10.0.0.0/8}}}
- {allow: receive, to: 'b/${certificate.subject.cn}/x'}
- {deny: receive, to: 'a/x', if: {IpAddress: {source.address: 10.1.0.0/16}}}
- {deny: receive, to: 'c'}
- {allow: receive, to: ['c', 'd', 'b/known/x']}
"""
    rights = compiled(text, unknown=CONNECTION)
    assert rights.may_receive("a/y")
    assert rights.may_receive("a/x")
    assert rights.may_receive("b/anything/x")
    assert not rights.may_receive("c")
    for topic, name in (("a/y", "source.address"), ("a/x", "source.address"), ("b/y/x", "certificate.subject.cn")):
        with pytest.raises(UndecidedError, match=f"depends on {name}, which is not known: Statement"):
            rights.explain(Action.RECEIVE, topic)
    assert rights.explain(Action.RECEIVE, "c").reason == "explicit_deny"
    assert rights.explain(Action.RECEIVE, "d").allowed
    assert rights.explain(Action.RECEIVE, "b/known/x").statement == "Statement[4]", "the one that is sure"
    assert rights.explain(Action.RECEIVE, "e").reason == "not_allowed"
