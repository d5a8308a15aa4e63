"""A fleet query as a condition of SQL on devices.

Facts that only live in memory are asked for by functions of SQL, CONNECTED(name) -> 0 or 1, LAST_SEEN(name) and
LAST_DATA(name) -> microseconds or NULL; who opens the database defines them.
"""

import re
from collections.abc import Callable, Mapping
from operator import eq, ge, gt, le, lt
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    case,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from fleet.identity import Kind
from fleet.numbers import number_of
from fleet.registry.groups import Group, with_descendants
from fleet.registry.model import CertificateStatus
from fleet.registry.query.model import ATTRIBUTES, FIELDS, And, Form, Not, Op, Or, Query, QueryError, Term
from fleet.registry.query.parser import parse
from fleet.registry.query.versions import sort_key
from fleet.registry.schema import attributes, certificates, group_devices, members, tags

CONNECTED, LAST_SEEN, LAST_DATA = "fleetgate_connected", "fleetgate_last_seen", "fleetgate_last_data"
CONDITION = "fleetgate_condition"
LIVE = frozenset({CONNECTED, LAST_SEEN, LAST_DATA, CONDITION})
"""Functions that a database gets from who knows: see Live."""

Condition = ColumnElement[bool]

_COMPARE: Mapping[Op, Callable[[Any, Any], Any]] = {
    Op.IS: eq,
    Op.BELOW: lt,
    Op.AT_MOST: le,
    Op.ABOVE: gt,
    Op.AT_LEAST: ge,
}
DEVICES = members.c.kind == Kind.DEVICE

_connected: ColumnElement[Any] = getattr(func, CONNECTED)(members.c.name, type_=Integer)
_condition: ColumnElement[Any] = getattr(func, CONDITION)(members.c.name, type_=Text)
_last_seen: ColumnElement[Any] = getattr(func, LAST_SEEN)(members.c.name, type_=BigInteger)
_last_data: ColumnElement[Any] = getattr(func, LAST_DATA)(members.c.name, type_=BigInteger)


class _Matches(FunctionElement[bool]):
    """Whether a column's text matches a pattern: (column, the pattern for GLOB, the pattern for LIKE)."""

    name = "matches"
    type = Boolean()
    inherit_cache = True


@compiles(_Matches)
def _glob(element: _Matches, compiler: SQLCompiler, **options: Any) -> str:
    column, glob, _like = element.clauses
    return f"{compiler.process(column, **options)} GLOB {compiler.process(glob, **options)}"


@compiles(_Matches, "postgresql")
def _like(element: _Matches, compiler: SQLCompiler, **options: Any) -> str:
    column, _glob, like = element.clauses
    return f"{compiler.process(column, **options)} LIKE {compiler.process(like, **options)}"


def condition(query: Query, groups: Mapping[str, Group], now: int) -> Condition:
    """Compile to a condition on `members`; `now` is for the queries of groups.

    Raises QueryError for a group that is not there.
    """
    match query:
        case And(parts):
            return and_(true(), *(condition(part, groups, now) for part in parts))
        case Or(parts):
            return or_(false(), *(condition(part, groups, now) for part in parts))
        case Not(part):
            return not_(func.coalesce(condition(part, groups, now), false()))
        case Term(field="group"):
            return _group(query, groups, now)
        case Term():
            return _term(query)


def grouping(field: str) -> tuple[ColumnElement[Any], FromClause | None]:
    """What devices are counted by: the column, and a table that has it for each device (None: it is the device's own).

    Raises QueryError for a field that makes no groups.
    """
    if field.startswith(ATTRIBUTES):
        keyed = select(attributes.c.device, attributes.c.text).where(attributes.c.key == field[len(ATTRIBUTES) :])
        found = keyed.subquery()
        return found.c.text, found
    if field == "tag":
        return tags.c.tag, tags
    if field == "connected":
        return case((_connected == 1, "true"), else_="false"), None
    if field in {"type", "site", "state"}:
        return members.c[field], None
    raise QueryError(
        1, f"devices are counted by type, site, state, tag, connected or {ATTRIBUTES}KEY, not by {field!r}"
    )


def _term(term: Term) -> Condition:
    if term.field.startswith(ATTRIBUTES):
        return _attribute(term)
    if (special := _SPECIAL.get(term.field)) is not None:
        return special(term)
    column = members.c[term.field]
    if FIELDS[term.field] is Form.TEXT and term.op is Op.IS:
        return _is(column, term)
    return _compare(column, term)


def _compare(column: ColumnElement[Any], term: Term) -> Condition:
    found: Condition = _COMPARE[term.op](column, term.value)
    return found


def _tag(term: Term) -> Condition:
    return _among(tags.c.device, _is(tags.c.tag, term))


def _certificate_expires(term: Term) -> Condition:
    return _among(
        certificates.c.name,
        certificates.c.kind == Kind.DEVICE,
        certificates.c.status == CertificateStatus.ACTIVE,
        _compare(certificates.c.not_after, term),
    )


_SPECIAL: Mapping[str, Callable[[Term], Condition]] = {
    "tag": _tag,
    "connected": lambda term: _connected == int(term.value),
    "condition": lambda term: _is(_condition, term),
    "last_seen": lambda term: _compare(_last_seen, term),
    "last_data": lambda term: _compare(_last_data, term),
    "certificate_expires": _certificate_expires,
}


def _attribute(term: Term) -> Condition:
    keyed = attributes.c.key == term.field[len(ATTRIBUTES) :]
    number = None if term.quoted else _number(str(term.value))
    if term.op is Op.IS:
        same = _is(attributes.c.text, term)
        if number is not None:
            same = or_(same, attributes.c.number == number)
        return _among(attributes.c.device, keyed, same)
    compare = _COMPARE[term.op]
    ordered = _among(attributes.c.device, keyed, compare(attributes.c.sort, sort_key(str(term.value))))
    if number is None:
        return ordered
    return or_(ordered, _among(attributes.c.device, keyed, compare(attributes.c.number, number)))


def _group(term: Term, groups: Mapping[str, Group], now: int) -> Condition:
    name = str(term.value)
    if name not in groups:
        raise QueryError(term.column, f"no group named {name!r}")
    found = with_descendants(groups, name)
    static = [group.name for group in found if group.query is None]
    put_in = _among(group_devices.c.device, group_devices.c.group.in_(static)) if static else false()
    dynamic = (parse(group.query, now) for group in found if group.query is not None)
    return or_(put_in, *(condition(query, groups, now) for query in dynamic))


def _is(column: ColumnElement[Any], term: Term) -> Condition:
    text = str(term.value)
    if term.quoted or "*" not in text:
        return column == text
    if text == "*":
        return column != ""
    glob = text.replace("[", "[[]").replace("?", "[?]")
    like = re.sub(r"[\\%_]", r"\\\g<0>", text).replace("*", "%")
    return _Matches(column, literal(glob), literal(like))


def _among(device: ColumnElement[Any], *conditions: Condition) -> Condition:
    found: Select[Any] = select(device).where(*conditions)
    return members.c.name.in_(found)


def _number(text: str) -> float | None:
    found = number_of(text)
    return None if found is None else float(found)
