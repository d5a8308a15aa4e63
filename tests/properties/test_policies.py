"""Policies decide what a slow and obvious reading of them decides."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.policy.compiled import Attached, Caller, Compiled, Program
from fleet.policy.document import Action, read

ATTRIBUTES = ("x", "y")
pieces = st.sampled_from(
    ["a", "b", "/", "*", "?", "a/b", "+", "#", "$SYS", ".", "${*}", "${?}", "${$}", "${device.id}"]
    + [f"${{device.attributes.{key}}}" for key in ATTRIBUTES]
)
resources = st.lists(pieces, min_size=1, max_size=6).map("".join)
conditions = st.sampled_from(
    [
        {},
        {"StringEquals": {"device.attributes.x": ["a", "b"]}},
        {"StringNotEquals": {"device.attributes.x": "a"}},
        {"StringLike": {"device.attributes.y": "*/*"}},
        {"Null": {"device.attributes.x": "true"}},
        {"NumericLessThan": {"device.attributes.y": 5}, "StringEquals": {"device.id": "d"}},
    ]
)
statements = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Deny"]),
        "Action": st.lists(st.sampled_from([*Action, "*"]), min_size=1, max_size=2),
        "Resource": st.lists(resources, min_size=1, max_size=3),
        "Condition": conditions,
    }
)
documents = st.lists(statements, min_size=1, max_size=4).map(lambda found: {"Statement": found})
values = st.fixed_dictionaries(
    {"device.id": st.just("d")},
    optional={
        f"device.attributes.{key}": st.sampled_from(["a", "b", "a/b", "*", "?", "+", "", ".*", 3, 7.5, True, "$SYS"])
        for key in ATTRIBUTES
    },
)
asked = st.lists(
    st.sampled_from(["a", "b", "/", "x", "*", "?", "+", "#", "$SYS", "$", "d", ".", "3", "7.5", "true"]),
    max_size=6,
).map("".join)


def text_of(value) -> str:
    if value is True:
        return "true"
    return value if isinstance(value, str) else f"{value:g}"


def holds(condition: dict, known: dict) -> bool:
    for operator, keys in condition.items():
        for key, wanted in keys.items():
            actual = known.get(key)
            options = wanted if isinstance(wanted, list) else [wanted]
            if operator == "Null":
                answer = actual is None
            elif operator == "StringNotEquals":
                answer = actual is None or text_of(actual) not in options
            elif actual is None:
                answer = False
            elif operator == "StringEquals":
                answer = text_of(actual) in options
            elif operator == "StringLike":
                answer = "/" in text_of(actual)
            else:
                answer = not isinstance(actual, (bool, str)) and actual < options[0]
                if isinstance(actual, str):
                    answer = bool(re.fullmatch(r"\d+", actual)) and float(actual) < options[0]
            if not answer:
                return False
    return True


def pattern_of(resource: str, known: dict, *, deny: bool) -> re.Pattern | None:
    """The resource as one regular expression; None: it has a value that can't be used."""
    found = ""
    for part in re.findall(r"\$\{[^}]*\}|.", resource, re.DOTALL):
        if part == "*":
            found += ".*"
        elif part == "?":
            found += "[^+#]"
        elif not part.startswith("${"):
            found += re.escape(part)
        elif part[2:-1] in {"*", "?", "$"}:
            found += re.escape(part[2:-1])
        else:
            value = known.get(part[2:-1])
            if value is None or value == "" or re.search(r"[/+#\0]", text_of(value)):
                if not deny:
                    return None
                found += ".*"
            else:
                found += re.escape(text_of(value))
    return re.compile(found, re.DOTALL)


def about(statement: dict, action: Action, topic: str, known: dict) -> bool:
    if action not in statement["Action"] and "*" not in statement["Action"]:
        return False
    if not holds(statement["Condition"], known):
        return False
    deny = statement["Effect"] == "Deny"
    for resource in statement["Resource"]:
        begins_wild = resource[0] in "*?" or re.match(r"\$\{[^*?$]", resource) is not None
        if topic.startswith("$") and begins_wild and not deny:
            continue
        pattern = pattern_of(resource, known, deny=deny)
        if pattern is not None and pattern.fullmatch(topic):
            return True
    return False


def decide(policies: list[dict], action: Action, topic: str, known: dict) -> bool:
    if action in {Action.PUBLISH, Action.RETAIN, Action.RECEIVE} and re.search("[+#]", topic):
        return False
    found = [one for policy in policies for one in policy["Statement"] if about(one, action, topic, known)]
    return bool(found) and all(one["Effect"] == "Allow" for one in found)


@given(st.lists(documents, max_size=3), values, st.lists(st.tuples(st.sampled_from(Action), asked), max_size=8))
@settings(max_examples=1500, deadline=None)
def test_policies_decide_as_the_reference_does(policies, known, questions):
    """Statements, wildcards, variables, conditions: allowed where it allows, denied where it denies."""
    attached = [Attached(f"p{number}", 1, read(policy)) for number, policy in enumerate(policies)]
    present = {key: value for key, value in known.items() if value != ""}
    rights = Compiled(Program(attached), present, Caller("d"))
    for action, topic in [*questions, *questions]:
        expected = decide(policies, action, topic, present)
        assert rights.decide(action, topic).allowed is expected
        assert rights.explain(action, topic).allowed is expected
