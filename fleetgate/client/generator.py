"""Makes `operations.py` of the API's document: a method for each endpoint, a type for each schema (`make recorded`)."""

import keyword
import re
from collections.abc import Iterator, Mapping
from typing import Any

_HEADING = '''"""Made by fleetgate.client.generator of the API's document; not to be edited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NotRequired, TypedDict

from fleetgate.client.transport import Transport, segment
'''
_PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_ENDLESS = frozenset({"application/x-ndjson", "text/event-stream"})
_LEFT_OUT = frozenset({"accept"})
_WITH_SLASHES = frozenset({"client_id"})
_ABSENT = " = None"


def generate(document: Mapping[str, Any]) -> str:
    """The module's text, before it is formatted."""
    schemas = document["components"]["schemas"]
    methods = ["", "", "class Operations(Transport):", '    """The endpoints of the API, each named as its action."""']
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "x-action" in operation:
                methods += ["", *_method(method.upper(), path.removeprefix("/api/v1"), operation, schemas)]
    types = {_name(name): list(_type(name, schema)) for name, schema in schemas.items()}
    lines = [_HEADING]
    for name in sorted(_used(methods, types)):
        lines += ["", "", *types[name]]
    return "\n".join([*lines, *methods]) + "\n"


def _used(methods: list[str], types: Mapping[str, list[str]]) -> set[str]:
    """Types that methods name, and those that these name."""
    used, texts = set[str](), methods
    while texts:
        found = {word for text in texts for word in re.findall(r"\w+", text) if word in types} - used
        used |= found
        texts = [text for name in found for text in types[name]]
    return used


def _name(of: str) -> str:
    return of.rpartition("__")[2] if "__" not in of else "".join(part.title() for part in of.split("__")[-2:])


def _type(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in schema:
        yield f"{_name(name)} = Literal[{', '.join(map(repr, schema['enum']))}]"
        return
    required = schema.get("required", ())
    yield f"class {_name(name)}(TypedDict):"
    yield f'    """{" ".join(schema.get("description", name).split())}"""'
    yield ""
    for key, value in schema.get("properties", {}).items():
        kind = _annotation(value)
        yield f"    {key}: {kind if key in required else f'NotRequired[{kind}]'}"


def _annotation(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _name(_target(schema))
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(_annotation, schema["anyOf"])))
    kind = schema.get("type")
    if kind == "array":
        return f"list[{_annotation(schema.get('items', {}))}]"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"dict[str, {_annotation(inner) if isinstance(inner, Mapping) else 'Any'}]"
    return _PLAIN.get(str(kind), "Any")


def _method(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    positional, named, sent = _parameters(operation)
    content = operation.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {}).get("schema", {})
    texts = [f"{part}={{{', '.join(pairs)}}}" for part, pairs in sent.items()]
    if "$ref" in body:
        fields = list(_fields(schemas[_target(body)]))
        named += [declared for _, declared in fields]
        texts.append(f"json={{{', '.join(pair for pair, _ in fields)}}}")
    elif body:
        positional.append("body: dict[str, Any]")
        texts.append("json=body")
    elif content:
        positional += ["content: bytes", f"content_type: Literal[{', '.join(map(repr, content))}]"]
        texts += ["content=content", "headers={'Content-Type': content_type}"]
    named.sort(key=lambda text: text.endswith(_ABSENT))
    given = ", ".join([*positional, *(["*", *named] if named else [])])
    answers = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))["content"]
    endless = bool(_ENDLESS & answers.keys())
    told = _annotation(answers.get("application/json", {}).get("schema", {}))
    address = re.sub(r"\{([\w-]+)\}", lambda found: f"{{{_segment(_identifier(found[1]))}}}", path)
    yield f"    def {operation['operationId']}({given}) -> {'Iterator[dict[str, Any]]' if endless else told}:"
    yield f'        """{operation["summary"]}.'
    yield ""
    yield f"        {operation['description']}"
    yield '        """'
    called = "_lines" if endless else "_call"
    quoted = repr(path) if address == path else f"f{address!r}"
    yield f"        return self.{called}({', '.join([repr(method), quoted, *texts])})"


def _segment(name: str) -> str:
    return f"segment({name}, slashes=True)" if name in _WITH_SLASHES else f"segment({name})"


def _parameters(operation: Mapping[str, Any]) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Arguments by place, arguments by name, and what is sent of the latter: query and headers."""
    positional, named, sent = ["self"], [], dict[str, list[str]]()
    for parameter in operation.get("parameters", ()):
        name, kind = parameter["name"], _annotation(parameter["schema"])
        if parameter["in"] == "path":
            positional.append(f"{_identifier(name)}: {kind}")
        elif name not in _LEFT_OUT:
            named.append(_declared(name, kind, required=parameter.get("required", False)))
            part = "params" if parameter["in"] == "query" else "headers"
            sent.setdefault(part, []).append(f"{name!r}: {_identifier(name)}")
    return positional, named, sent


def _fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of a body: what is sent, and the argument that it is."""
    for name, value in schema["properties"].items():
        required = name in schema.get("required", ())
        yield f"{name!r}: {_identifier(name)}", _declared(name, _annotation(value), required=required)


def _declared(name: str, kind: str, *, required: bool) -> str:
    return f"{_identifier(name)}: {kind}" + (
        "" if required else f"{'' if kind.endswith('None') else ' | None'}{_ABSENT}"
    )


def _target(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _identifier(name: str) -> str:
    found = name.lower().replace("-", "_")
    return f"{found}_" if keyword.iskeyword(found) else found
