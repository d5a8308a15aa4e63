"""Templates: what a device is registered as that provisions itself, and what is wrong with others."""

import json

import pytest

from fleet.documents import DocumentError
from fleet.provisioning.template import Parameter, ParametersError, from_object, read_template

TEXT = """
device: b-${parameters.serial}
parameters:
  serial: {pattern: "[0-9]{4}"}
  fw: {default: "1.0"}
type: pump
attributes: {batch: "${certificate.subject.ou}", fw: "${parameters.fw}"}
tags: ["t-${parameters.serial}"]
groups: [new]
enrolment: {list: boards, serial: "${parameters.serial}"}
hook: http://127.0.0.1:1/
active: false
"""


def test_a_template_is_filled():
    """With parameters, and what the certificate says."""
    source, template = read_template(TEXT)
    assert from_object(source) == template
    assert template.parameters["fw"] == Parameter(None, "1.0")
    assert (template.active, template.hook, template.enrolment.name) == (False, "http://127.0.0.1:1/", "boards")
    parameters = template.check_parameters({"serial": "0042"})
    assert parameters == {"serial": "0042", "fw": "1.0"}
    values = {f"parameters.{name}": value for name, value in parameters.items()}
    filled = template.fill("", {**values, "certificate.subject.ou": "B7"})
    assert (filled.device, filled.serial, filled.groups) == ("b-0042", "0042", ("new",))
    assert (filled.details.type, filled.details.tags) == ("pump", ("t-0042",))
    assert filled.details.attributes == {"batch": "B7", "fw": "1.0"}
    assert template.fill("by-its-certificate", {**values, "certificate.subject.ou": "x"}).device == "by-its-certificate"
    plain = from_object(
        {"enrolment": "boards", "attributes": {"n": 3, "on": True}, "parameters": {"n": {"default": 3}}}
    )
    assert plain.fill("a", {}).serial == "a"
    assert plain.fill("a", {}).details.attributes == {"n": 3, "on": True}
    assert plain.check_parameters({}) == {"n": "3"}
    assert from_object({"parameters": {"x": ""}}).check_parameters({"x": True}) == {"x": "true"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "parameters.serial: it is needed"),
        ({"serial": None}, "parameters.serial: it is needed"),
        ({"serial": ["0042"]}, "parameters.serial: it is needed"),
        ({"serial": "42"}, "parameters.serial: '42' does not match [0-9]{4}"),
        ({"serial": "0042\n"}, "parameters.serial: 1 to 1024 printable characters"),
        ({"serial": "0042", "fw": ""}, "parameters.fw: 1 to 1024"),
        ({"serial": "0042", "fw": "x" * 1025}, "parameters.fw: 1 to 1024"),
        ({"serial": "0042", "color": "red"}, "parameters: unknown 'color'; known are serial, fw"),
    ],
)
def test_parameters_that_are_refused(given: dict, message: str):
    """Each by its name."""
    with pytest.raises(ParametersError) as caught:
        read_template(TEXT)[1].check_parameters(given)
    assert message in str(caught.value)


@pytest.mark.parametrize("serial", ["a/b", "+", "#", "$SYS", "", "ключ", "x" * 200, "a b", "../x"])
def test_a_name_is_a_name(serial: str):
    """Whatever a parameter holds."""
    template = from_object({"device": "${parameters.s}", "parameters": {"s": {}}})
    with pytest.raises(ParametersError, match=r"device: .* is no name for a device|device: parameters.s has no value"):
        template.fill("", {"parameters.s": serial})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "x"}, "template: unknown field 'name'; known are device,"),
        ({"device": 5}, "device: '5' is not a text"),
        ({"device": "${parameters.x}"}, "device: no variable named 'parameters.x'"),
        ({"device": "${parameters.x"}, "device: ${ without }"),
        ({"type": "${device.id}"}, "type: no variable named 'device.id'"),
        ({"attributes": []}, "attributes: an object is wanted"),
        ({"attributes": {"a": None}}, "attributes.a: 'None' is not a text"),
        ({"attributes": {"a": "${x}"}}, "attributes.a: no variable named 'x'"),
        ({"tags": "new"}, "tags: a list is wanted"),
        ({"groups": [5]}, "groups[0]: '5' is not a text"),
        ({"parameters": ["x"]}, "parameters: an object is wanted"),
        ({"parameters": {"a b": {}}}, "parameters.a b: letters, digits"),
        ({"parameters": {"a": "x"}}, "parameters.a: an object is wanted"),
        ({"parameters": {"a": {"required": True}}}, "parameters.a: unknown field 'required'"),
        ({"parameters": {"a": {"pattern": "["}}}, "parameters.a.pattern: unterminated character set"),
        ({"parameters": {"a": {"pattern": 5}}}, "parameters.a.pattern: a text of at most 200"),
        ({"parameters": {f"a{number}": {} for number in range(51)}}, "parameters: 51 of them, the limit is 50"),
        ({"enrolment": {"serial": "x"}}, "enrolment.list: the name of a list is needed"),
        ({"enrolment": {"list": "x", "by": "y"}}, "enrolment: unknown field 'by'"),
        ({"enrolment": 5}, "enrolment: an object is wanted"),
        ({"hook": "ftp://x"}, "hook: 'ftp://x' is neither a URL nor python:module:function"),
        ({"hook": "http://x/${claim.name}"}, "hook: no variable named 'claim.name'"),
        ({"active": "maybe"}, "active: neither true nor false"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(given: dict, message: str):
    """One clear error."""
    with pytest.raises(DocumentError) as caught:
        read_template(json.dumps(given))
    assert message in str(caught.value)


def test_a_template_is_an_object():
    """Not a list."""
    with pytest.raises(DocumentError, match="template: an object is wanted"):
        read_template("[]")
