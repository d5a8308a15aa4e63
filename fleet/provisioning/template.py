"""Templates: what a device that provisions itself is registered as. Pure.

device: ${parameters.serial}
parameters:
  serial: {pattern: "[A-Z0-9]{4,12}"}
type: pump
attributes: {batch: "${certificate.subject.ou}"}
groups: [new]
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.documents import DocumentError, parsed
from fleet.hook import HOOKS
from fleet.names import is_name
from fleet.policy.pattern import text_of
from fleet.registry.details import Details, Value

MAX_PARAMETERS = 50
MAX_VALUE = 1024
_TEXTS = ("device", "display_name", "type", "site", "notes")
_FIELDS = (*_TEXTS, "attributes", "tags", "groups", "parameters", "enrolment", "hook", "active")
_PATTERN = 200

NAMES = frozenset(
    {
        "claim.name",
        "authority.name",
        "certificate.serial",
        "certificate.fingerprint",
        "certificate.key",
        "certificate.issuer.cn",
        *(f"certificate.subject.{part}" for part in ("cn", "o", "ou", "c", "l", "st", "serial")),
    }
)
"""Variables, besides parameters.<name>. Of a signing request, `certificate` is what is known of the request."""

_variable = re.compile(r"\$\{([^}]*)\}")
_is_parameter = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}").fullmatch


class ParametersError(DocumentError):
    """Parameters that a template does not take, or values that make no device of it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. `default` None: it has to be given."""

    pattern: re.Pattern[str] | None = None
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The list that a device has to be on. `serial` is what is looked up in a list of serial numbers."""

    name: str
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Filled:
    """What a device is to be; `serial` is what its enrolment list is asked for."""

    device: str
    details: Details
    groups: tuple[str, ...]
    serial: str


@dataclass(frozen=True, slots=True)
class Template:
    """A template. `device` empty: its certificate says who it is. `hook` empty: nobody else is asked."""

    device: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Value] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    enrolment: Enrolment | None = None
    hook: str = ""
    active: bool = True

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Return all parameters as texts. Raises ParametersError that names one."""
        for name in given:
            if name not in self.parameters:
                raise ParametersError(f"parameters: unknown {name[:80]!r}; known are {', '.join(self.parameters)}")
        found = {}
        for name, parameter in self.parameters.items():
            value = given.get(name, parameter.default)
            if not isinstance(value, str | int | float | bool):
                raise ParametersError(f"parameters.{name}: it is needed, a text, number or boolean")
            text = text_of(value)
            if not text or len(text) > MAX_VALUE or not text.isprintable():
                raise ParametersError(f"parameters.{name}: 1 to {MAX_VALUE} printable characters are wanted")
            if parameter.pattern is not None and parameter.pattern.fullmatch(text) is None:
                raise ParametersError(f"parameters.{name}: {text[:80]!r} does not match {parameter.pattern.pattern}")
            found[name] = text
        return found

    def asked_of_certificates(self) -> dict[str, str]:
        """Parameters of who comes with nothing but a certificate: their defaults."""
        return {
            f"parameters.{name}": parameter.default
            for name, parameter in self.parameters.items()
            if parameter.default is not None
        }

    def missing_for_certificates(self) -> list[str]:
        """Variables that it needs, and that nothing says of who comes with nothing but a certificate."""
        texts = [*self.texts.values(), *self.tags, *self.groups, self.enrolment.serial if self.enrolment else ""]
        texts += [value for value in self.attributes.values() if isinstance(value, str)]
        needed = {name for text in texts for name in _variable.findall(text)}
        known = self.asked_of_certificates()
        return sorted(
            name for name in needed if name == "claim.name" or (name.startswith("parameters.") and name not in known)
        )

    def fill(self, name: str, values: Mapping[str, str]) -> Filled:
        """Put values in; `name` is the device's by its certificate, empty where the template says it.

        Raises ParametersError for a value that is missing where it is needed, or a name that is none.
        """
        device = name or _filled(self.device, values, "device")
        if not is_name(device):
            raise ParametersError(f"device: {device[:140]!r} is no name for a device")
        texts = {key: _filled(text, values, key) for key, text in self.texts.items()}
        attributes = {
            key: _filled(value, values, f"attributes.{key}") if isinstance(value, str) else value
            for key, value in self.attributes.items()
        }
        tags = tuple(_filled(tag, values, "tags") for tag in self.tags)
        groups = tuple(_filled(group, values, "groups") for group in self.groups)
        serial = _filled(self.enrolment.serial, values, "enrolment") if self.enrolment and self.enrolment.serial else ""
        return Filled(device, Details(**texts, attributes=attributes, tags=tags), groups, serial or device)


def read_template(text: str) -> tuple[dict[str, Any], Template]:
    """Read a template, JSON or YAML: as it was written, and what it means. Raises DocumentError."""
    given = parsed(text, "template")
    if not isinstance(given, dict):
        raise DocumentError("template: an object is wanted")
    return given, from_object(given)


def from_object(given: Mapping[str, Any]) -> Template:
    """Read a template as JSON gives it. Raises DocumentError."""
    _only(given, _FIELDS, "template")
    parameters = _parameters(given.get("parameters", {}))
    check = _Checks(frozenset(f"parameters.{name}" for name in parameters) | NAMES)
    texts = {name: check.text(given[name], name) for name in _TEXTS if name in given}
    active = {"true": True, "false": False}.get(str(given.get("active", True)).lower())
    if active is None:
        raise DocumentError("active: neither true nor false")
    hook = check.text(given.get("hook", ""), "hook", variables=False)
    if hook and not hook.startswith(HOOKS):
        raise DocumentError(f"hook: {hook[:80]!r} is neither a URL nor python:module:function")
    return Template(
        texts.pop("device", ""),
        texts,
        check.values(given.get("attributes", {}), "attributes"),
        check.texts(given.get("tags", []), "tags"),
        check.texts(given.get("groups", []), "groups"),
        parameters,
        _enrolment(given.get("enrolment"), check),
        hook,
        active,
    )


@dataclass(frozen=True, slots=True)
class _Checks:
    known: frozenset[str]

    def text(self, value: Any, place: str, *, variables: bool = True) -> str:
        if not isinstance(value, str):
            raise DocumentError(f"{place}: {str(value)[:80]!r} is not a text")
        names = _variable.findall(value)
        if value.count("${") != len(names):
            raise DocumentError(f"{place}: ${{ without }}")
        for name in names:
            if not variables or name not in self.known:
                raise DocumentError(f"{place}: no variable named {name[:80]!r}")
        return value

    def texts(self, values: Any, place: str) -> tuple[str, ...]:
        if not isinstance(values, list):
            raise DocumentError(f"{place}: a list is wanted")
        return tuple(self.text(value, f"{place}[{number}]") for number, value in enumerate(values))

    def values(self, values: Any, place: str) -> dict[str, Value]:
        return {
            key: self.text(value, f"{place}.{key}") if not isinstance(value, int | float | bool) else value
            for key, value in _object(values, place).items()
        }


def _parameters(given: Any) -> dict[str, Parameter]:
    found = {}
    for name, about in _object(given, "parameters").items():
        place = f"parameters.{name}"
        if _is_parameter(name) is None:
            raise DocumentError(f"{place[:100]}: letters, digits, _, . and - are possible")
        fields = {} if about in (None, "") else _object(about, place)
        _only(fields, ("pattern", "default"), place)
        default = fields.get("default")
        found[name] = Parameter(
            _regular(fields["pattern"], place) if "pattern" in fields else None,
            None if default is None else text_of(default),
        )
    if len(found) > MAX_PARAMETERS:
        raise DocumentError(f"parameters: {len(found)} of them, the limit is {MAX_PARAMETERS}")
    return found


def _regular(text: Any, place: str) -> re.Pattern[str]:
    if not isinstance(text, str) or len(text) > _PATTERN:
        raise DocumentError(f"{place}.pattern: a text of at most {_PATTERN} characters is wanted")
    try:
        return re.compile(text)
    except re.error as error:
        raise DocumentError(f"{place}.pattern: {error}") from None


def _enrolment(given: Any, check: _Checks) -> Enrolment | None:
    if given is None:
        return None
    if isinstance(given, str):
        return Enrolment(given)
    fields = _object(given, "enrolment")
    _only(fields, ("list", "serial"), "enrolment")
    if not isinstance(fields.get("list"), str):
        raise DocumentError("enrolment.list: the name of a list is needed")
    return Enrolment(fields["list"], check.text(fields.get("serial", ""), "enrolment.serial"))


def _filled(text: str, values: Mapping[str, str], place: str) -> str:
    def value(found: re.Match[str]) -> str:
        known = values.get(found[1], "")
        if not known:
            raise ParametersError(f"{place}: {found[1]} has no value")
        return known

    return _variable.sub(value, text)


def _object(given: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise DocumentError(f"{place}: an object is wanted")
    return given


def _only(given: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for name in given:
        if name not in known:
            raise DocumentError(f"{place}: unknown field {name[:80]!r}; known are {', '.join(known)}")
