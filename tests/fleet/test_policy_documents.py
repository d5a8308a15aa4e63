"""Policy documents: what they say, in long words and short, and what is wrong with others."""

import json

import pytest

from fleet.documents import DocumentError
from fleet.policy.document import VERSION, Action, Effect
from fleet.policy.pattern import Pattern, Variable, Wild, parse
from fleet.policy.text import read_text

STATEMENT = {"Effect": "Allow", "Action": "publish", "Resource": "a"}


def document(*statements, **more) -> str:
    return json.dumps({"Version": VERSION, "Statement": list(statements), **more})


def with_condition(operator: str, key: str, value) -> str:
    return document({**STATEMENT, "Condition": {operator: {key: value}}})


def test_long_and_short_say_the_same():
    """JSON in AWS's shape, the same in YAML, and YAML in short words."""
    long = document(
        {
            "Sid": "own",
            "Effect": "Allow",
            "Action": ["Publish", "retain"],
            "Resource": "devices/${device.id}/*",
            "Condition": {"IpAddress": {"source.address": "10.0.0.0/8"}},
        },
        {"Effect": "Deny", "Action": "*", "Resource": ["x", "y/${?}"]},
    )
    as_yaml = """
Version: "2012-10-17"
Statement:
- {Sid: own, Effect: Allow, Action: [Publish, retain], Resource: "devices/${device.id}/*",
   Condition: {IpAddress: {source.address: 10.0.0.0/8}}}
- {Effect: Deny, Action: "*", Resource: [x, "y/${?}"]}
"""
    short = """
- name: own
  allow: [Publish, retain]
  to: devices/${device.id}/*
  if: {IpAddress: {source.address: 10.0.0.0/8}}
- deny: "*"
  to: [x, "y/${?}"]
"""
    found = [read_text(text) for text in (long, as_yaml, short)]
    assert found[0] == found[1] == found[2]
    one, two = found[0][1].statements
    assert (one.name, one.effect, one.actions) == ("own", Effect.ALLOW, {Action.PUBLISH, Action.RETAIN})
    assert one.resources == (("devices/", Variable("device.id"), "/", Wild.STAR),)
    assert (two.name, two.effect, two.actions) == ("Statement[1]", Effect.DENY, set(Action))
    assert two.resources == (("x",), ("y/?",))
    assert found[0][1].needs() == {"device.id", "source.address"}
    assert read_text(json.dumps({"Statement": STATEMENT}))[1].statements[0].actions == {Action.PUBLISH}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "policy: line 1, column 3: "),
        ("[" * 5000, "nested too deep"),
        ('{"Version": "1", "Version": "2"}', "'Version' stands twice"),
        ("a: 1\na: 2", "line 2, column 1: 'a' stands twice"),
        ("- [a: 1, a: 2, {b: 1, b: 2}]", "'b' stands twice"),
        ("a: b: c", "policy: line 1, column 5: "),
        ("a: &x [1]\nb: *x", "line 2, column 4: no aliases"),
        ("[" * 5 + "- a", "policy: line"),
        ("- " * 40 + "a", "nested too deep"),
        ("\x00", "policy: "),
        ("x" * 70_000, "policy: more than 65536 bytes"),
        ("text", "policy: an object with Version and Statement is wanted"),
        ("{}", "Statement: at least one is needed"),
        ('{"Statement": []}', "Statement: at least one is needed"),
        (document(STATEMENT, Version="2008-10-17"), "Version: '2008-10-17' is not known, \"2012-10-17\" is"),
        (document(STATEMENT, Id="x"), "policy: unknown field 'Id'; known are Version, Statement"),
        (document(*[STATEMENT] * 201), "Statement: 201 of them, the limit is 200"),
        ("\n".join(["- {allow: publish, to: a}"] * 300), "policy: 300 statements, the limit is 200"),
        (document("x"), "Statement[0]: an object with Effect, Action and Resource is wanted"),
        (document({**STATEMENT, "NotAction": "x"}), "Statement[0]: unknown field 'NotAction'"),
        (document({**STATEMENT, "Sid": 5}), "Statement[0].Sid: a text"),
        (document({**STATEMENT, "Sid": "a"}, {**STATEMENT, "Sid": "a"}), "Statement[1].Sid: another statement"),
        (document({**STATEMENT, "Effect": "allow"}), "Statement[0].Effect: 'allow' is neither"),
        (document({**STATEMENT, "Action": ["publish", "fly"]}), "Statement[0].Action[1]: no action named 'fly'"),
        (document({**STATEMENT, "Action": []}), "Statement[0].Action: at least one is needed"),
        (document({**STATEMENT, "Action": 5}), "Statement[0].Action: '5' is not a text"),
        (document({**STATEMENT, "Action": ["publish"] * 7}), "Statement[0].Action: 7 of them, the limit is 6"),
        (document({"Effect": "Allow", "Action": "publish"}), "Statement[0].Resource: at least one is needed"),
        (document({**STATEMENT, "Resource": ["a", ""]}), "Statement[0].Resource[1]: an empty text"),
        (document({**STATEMENT, "Resource": "a/${device.id"}), "Statement[0].Resource: column 3: ${ without }"),
        (document({**STATEMENT, "Resource": "${device.name}"}), "column 1: no variable named 'device.name'"),
        (document({**STATEMENT, "Resource": "${time}"}), "Statement[0].Resource: the time is for conditions"),
        (document({**STATEMENT, "Resource": "a" * 1025}), "Statement[0].Resource: 1025 characters"),
        (document({**STATEMENT, "Resource": ["a"] * 201}), "Statement[0].Resource: 201 of them"),
        (document({**STATEMENT, "Condition": []}), "Statement[0].Condition: an object of operators"),
        (document({**STATEMENT, "Condition": {"Is": {}}}), "Statement[0].Condition: no operator named 'Is'"),
        (document({**STATEMENT, "Condition": {"Bool": {}}}), "Statement[0].Condition.Bool: an object of keys"),
        (with_condition("Bool", "x", True), "Statement[0].Condition.Bool.x: no key named 'x'"),
        (with_condition("IpAddress", "device.id", "10.0.0.1"), "IpAddress is for the key source.address"),
        (with_condition("StringEquals", "time", "x"), "StringEquals is not for the time"),
        (with_condition("IpAddress", "source.address", "10.0.0.0/40"), "'10.0.0.0/40' is not an address"),
        (with_condition("DateLessThan", "time", "soon"), "'soon' is not a time"),
        (with_condition("TimeOfDay", "time", "9-17"), "'9-17' is not a part of the day"),
        (with_condition("TimeOfDay", "time", 9), "9 is not a part of the day"),
        (with_condition("NumericEquals", "device.attributes.n", "x"), "'x' is not a number"),
        (with_condition("NumericEquals", "device.attributes.n", True), "True is not a number"),
        (with_condition("Bool", "device.attributes.n", "maybe"), "'maybe' is neither true nor false"),
        (with_condition("StringEquals", "device.id", 5), "5 is not a text"),
        (with_condition("StringLike", "device.id", 5), "5 is not a text"),
        (with_condition("StringEquals", "device.id", []), "0 values, 1 to 100 are possible"),
        (with_condition("StringEquals", "device.id", ["a"] * 101), "101 values, 1 to 100 are possible"),
        ("- allow: publish", "Statement[0].Resource: at least one is needed"),
        ("- to: a", "[0]: neither allow nor deny"),
        ("- {allow: publish, deny: publish, to: a}", "[0]: both allow and deny"),
        ("- {allow: publish, to: a, when: b}", "[0]: unknown field 'when'; known are allow, deny, name, to, if"),
        ("- a", "[0]: an object with allow or deny"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, message: str):
    """One clear error, whatever comes."""
    with pytest.raises(DocumentError) as caught:
        read_text(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "text", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/*", "a/b/c", True),
        ("a/*", "a/", True),
        ("a/*", "a", False),
        ("*/b", "x/y/b", True),
        ("a*b*c", "a1b2c", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "acb", False),
        ("a*bc*c", "abcc", True),
        ("a*bc*c", "abc", False),
        ("*a*a*a*", "a" * 3, True),
        ("*a*a*a*", "aa", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", True),
        ("a?c", "ac", False),
        ("a/?", "a/#", False),
        ("a/?", "a/+", False),
        ("a/*", "a/#", True),
        ("*?b*", "xab", True),
        ("*?b*", "b", False),
        ("a/${*}/${?}${$}", "a/*/?$", True),
        ("a/${*}", "a/x", False),
        (".*", "ab", False),
        ("[ab]", "a", False),
        ("a\n*", "a\nb\n", True),
    ],
)
def test_resources_match_text(template: str, text: str, matches: bool):
    """Stars are any text, question marks one character; nothing else means anything."""
    assert Pattern(parse(template, "x"), {}, otherwise=Wild.STAR).matches(text) is matches


def test_a_resource_that_begins_wild_does_not_reach_dollar_topics():
    """As MQTT's own wildcards do not; a denial does."""
    for template in ("*", "?SYS/x", "${device.id}/x"):
        pattern = Pattern(parse(template, "x"), {"device.id": "$SYS"}, otherwise=Wild.STAR)
        assert not pattern.matches("$SYS/x", dollar=False)
        assert pattern.matches("$SYS/x", dollar=True)
    assert Pattern(parse("${$}SYS/*", "x"), {}, otherwise=Wild.STAR).matches("$SYS/x", dollar=False)
