r"""The text of a fleet query -> its tree, or an error that points at the column. Pure.

    query := or            or := and (OR and)*        and := not (AND not)*
    not   := NOT not | ( or ) | FIELD OP VALUE        OP  := : < <= > >=

A value is a word (to the next space or parenthesis) or a text in double quotes, with \ before a quote or a backslash
in it. A time is ISO 8601, `now`, or `now-2h` with s, m, h, d, w. An empty query is everything.
"""

import re

from fleet.registry.query.model import ATTRIBUTES, FIELDS, And, Form, Not, Op, Or, Query, QueryError, Term
from ingester.clock import UNIT_US
from ingester.decode import DecodeError, iso_us

MAX_LENGTH = 4096
_DEPTH = 50
_SHOWN = 40

_no_space = re.compile(r"\S")
_word = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_op = re.compile(r"<=|>=|[:<>]")
_quoted = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_bare = re.compile(r'[^\s()"]+')
_escape = re.compile(r"\\(.)")
_now = re.compile(r"now(?:([+-])(\d{1,9})([smhdw]))?", re.ASCII)


def parse(text: str, now: int) -> Query:
    """Read a query. `now`: microseconds since 1970-01-01 UTC, for `now-2h`. Raises QueryError."""
    if len(text) > MAX_LENGTH:
        raise QueryError(MAX_LENGTH + 1, f"longer than {MAX_LENGTH} characters")
    parser = _Parser(text, now)
    if parser.at_end():
        return And()
    query = parser.either(0)
    if not parser.at_end():
        raise parser.error("AND, OR or the end")
    return query


def field_form(field: str, column: int) -> Form:
    """What a field holds. Raises QueryError when there is none of that name."""
    if field.startswith(ATTRIBUTES) and len(field) > len(ATTRIBUTES):
        return Form.VALUE
    if field not in FIELDS:
        raise QueryError(column, f"no field {field[:_SHOWN]!r}: {', '.join(FIELDS)} or {ATTRIBUTES}KEY")
    return FIELDS[field]


class _Parser:
    """A place in the text that moves on."""

    def __init__(self, text: str, now: int) -> None:
        self._text = text
        self._now = now
        self._at = 0
        self._skip()

    def at_end(self) -> bool:
        return self._at == len(self._text)

    def error(self, expected: str) -> QueryError:
        found = "the end" if self.at_end() else repr(self._text[self._at : self._at + 10])
        return QueryError(self._at + 1, f"expected {expected}, not {found}")

    def either(self, depth: int) -> Query:
        parts = [self._both(depth)]
        while self._take_word("OR"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self, depth: int) -> Query:
        parts = [self._one(depth)]
        while self._take_word("AND"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self, depth: int) -> Query:
        if depth > _DEPTH:
            raise QueryError(self._at + 1, f"more than {_DEPTH} levels deep")
        if self._take_word("NOT"):
            return Not(self._one(depth + 1))
        if self._take("("):
            query = self.either(depth + 1)
            if not self._take(")"):
                raise self.error("AND, OR or )")
            return query
        return self._term()

    def _term(self) -> Term:
        column = self._at + 1
        if (name := _word.match(self._text, self._at)) is None:
            raise self.error("a field, NOT or (")
        form = field_form(name[0], column)
        self._at = name.end()
        if (op := _op.match(self._text, self._at)) is None:
            raise self.error(f": < <= > or >= after {name[0]}")
        self._at = op.end()
        compared = Op(op[0])
        if compared is not Op.IS and form in {Form.SET, Form.YES_NO}:
            raise QueryError(op.start() + 1, f"{name[0]} holds {form}: only : compares it")
        value_column = self._at + 1
        text, quoted = self._value(name[0])
        value: str | int | bool = text
        if form is Form.TIME:
            value = self._time(text, value_column)
        elif form is Form.YES_NO:
            if text not in {"true", "false"}:
                raise QueryError(value_column, f"{name[0]} is true or false, not {text[:_SHOWN]!r}")
            value = text == "true"
        return Term(name[0], compared, value, quoted, column)

    def _value(self, field: str) -> tuple[str, bool]:
        if self._text.startswith('"', self._at):
            if (quoted := _quoted.match(self._text, self._at)) is None:
                raise QueryError(self._at + 1, 'a text without its closing " (before " and \\ inside it goes a \\)')
            self._at = quoted.end()
            self._skip()
            return _escape.sub(r"\1", quoted[1]), True
        if (bare := _bare.match(self._text, self._at)) is None:
            raise self.error(f"a value of {field}")
        self._at = bare.end()
        self._skip()
        return bare[0], False

    def _time(self, text: str, column: int) -> int:
        if (found := _now.fullmatch(text)) is not None:
            sign, count, unit = found.groups()
            shift = int(count) * UNIT_US[unit] if sign else 0
            return self._now - shift if sign == "-" else self._now + shift
        try:
            return iso_us(text)
        except DecodeError:
            raise QueryError(column, f"{text[:_SHOWN]!r} is neither ISO 8601 nor now nor now-2h") from None

    def _take(self, mark: str) -> bool:
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        self._skip()
        return True

    def _take_word(self, word: str) -> bool:
        end = self._at + len(word)
        if not self._text.startswith(word, self._at) or self._text[end : end + 1] not in {"", " ", "\t", "\n", "("}:
            return False
        return self._take(word)

    def _skip(self) -> None:
        found = _no_space.search(self._text, self._at)
        self._at = len(self._text) if found is None else found.start()
