"""The OpenAPI document of the API: what FastAPI makes of the routes, with what holds for all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI

from fleetgate.http.access import PREFIX
from fleetgate.http.actions import ACTIONS, Action, Reach
from fleetgate.http.idempotency import KEY_PATTERN, NOT_REPEATED
from fleetgate.http.names import NAME_PATTERN

EXAMPLES = Path(__file__).with_name("examples.json")
"""By method and path, a request and its answer: `make recorded` records what the program answers in a test."""
_PROBLEM = "Problem"
_REACH = {
    Reach.OPEN: "",
    Reach.WITHIN: " Operators with a part of the fleet see and change what is in it.",
    Reach.DEVICE: " Operators with a part of the fleet: for devices in it.",
    Reach.CERTIFICATE: " Operators with a part of the fleet: for certificates of devices in it.",
    Reach.WHOLE: " For operators of the whole fleet.",
    Reach.SELF: " About others: for admins of the whole fleet.",
}
_ERRORS = {
    "401": "No credential that holds.",
    "403": "The caller may not do that.",
    "404": "Nothing of that name, or not in the caller's part of the fleet.",
    "409": "It contradicts what is there, or was changed meanwhile.",
    "422": "Something of the request can't be so: the detail names it.",
    "429": "Too many tries that did not hold: wait as long as Retry-After says.",
    "503": "A database can't be used now: nothing was changed, ask again later.",
}
_DEFAULT = "Any other problem."
_SAFE = frozenset({"get", "head"})
_HEADERS: dict[str, dict[str, Any]] = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "429": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}},
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": KEY_PATTERN},
    "description": "chosen by the client: the same request with the same key, within a day, is done once",
}
_PROBLEM_SCHEMA = {
    "title": _PROBLEM,
    "description": "A problem [RFC 9457]; programs may rely on `code`.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong, and where"},
        "code": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"at": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "column": {"type": "integer", "description": "of a query, from 1"},
    },
    "example": {
        "type": "urn:fleetgate:problem:not_found",
        "title": "Not Found",
        "status": 404,
        "detail": "no device named 'pump-7'",
        "code": "not_found",
    },
}


_NO_NUL = r"^[^\x00]*$"


def document(app: FastAPI) -> dict[str, Any]:
    """Make the document."""
    found = app.openapi()
    schemas = found["components"]["schemas"]
    actions = {_without_kinds(route): action for route, action in ACTIONS.items()}
    examples = orjson.loads(EXAMPLES.read_bytes())
    schemas[_PROBLEM] = _PROBLEM_SCHEMA
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                _tidy(parameter)
            action = _action(actions, method, path)
            if action is not None:
                _describe(operation, method, path, action)
            elif operation["responses"].pop("422", None) is not None:
                operation["responses"]["default"] = _problem(_DEFAULT, None)
            _illustrate(operation, examples.get(f"{method.upper()} {path}", {}))
            asked = [parameter["schema"] for parameter in operation.get("parameters", ())]
            bodies = operation.get("requestBody", {}).get("content", {})
            _without_nul([*asked, *(bodies[kind]["schema"] for kind in bodies if kind.endswith("json"))], schemas)
    return found


def _without_nul(asked: list[Any], schemas: Mapping[str, Any]) -> None:
    """Texts of requests have no NUL: see http.texts."""
    seen: set[str] = set()
    while asked:
        schema = asked.pop()
        if reference := schema.get("$ref"):
            if reference in seen:
                continue
            seen.add(reference)
            schema = schemas[reference.rpartition("/")[2]]
        if schema.get("type") == "string":
            if schema.keys().isdisjoint({"pattern", "enum", "const", "format"}):
                schema["pattern"] = _NO_NUL
            continue
        if "oneOf" in schema:
            continue  # a message: its payload may have it
        asked += [*schema.get("anyOf", ()), *schema.get("properties", {}).values()]
        asked += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]


def _illustrate(operation: dict[str, Any], example: Mapping[str, Any]) -> None:
    """Put an example where OpenAPI has places for it: parameters, body and answer."""
    given = {**example.get("path", {}), **example.get("query", {})}
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in given:
            parameter["example"] = given[parameter["name"]]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if "body" in example:
            content["example"] = example["body"]
    if "answer" in example:
        answers = operation["responses"][str(example["status"])].setdefault("content", {})
        answers.setdefault(example["media_type"], {})["example"] = example["answer"]


def _action(actions: Mapping[str, Action], method: str, path: str) -> Action | None:
    if not path.startswith(PREFIX):
        return None
    return actions.get(f"{method.upper()} {path.removeprefix(PREFIX)}")


def _without_kinds(route: str) -> str:
    """A route as OpenAPI writes it: {client_id:path} is {client_id}."""
    return route.replace(":path}", "}").replace(":int}", "}")


def _describe(operation: dict[str, Any], method: str, path: str, action: Action) -> None:
    operation["operationId"] = action.name.replace(".", "_")
    operation["tags"] = [action.name.partition(".")[0]]
    operation["description"] = f"Needs the role `{action.role}`.{_REACH[action.reach]}"
    operation["x-action"] = action.name
    about_one = "{" in path or any(found["name"] == "device" for found in operation.get("parameters", ()))
    wanted = {
        "401": True,
        "403": True,
        "404": about_one,
        "409": method not in _SAFE,
        "422": "parameters" in operation or "requestBody" in operation,
        "429": True,
        "503": True,
    }
    responses = operation["responses"]
    responses.pop("422", None)
    for status, is_wanted in wanted.items():
        if is_wanted:
            responses[status] = _problem(_ERRORS[status], _HEADERS.get(status))
    responses["default"] = _problem(_DEFAULT, None)
    if action.name == "session.login":
        operation["security"] = []
    if method == "post" and action.audited and action.name not in NOT_REPEATED:
        operation.setdefault("parameters", []).append(_KEY)


def _problem(description: str, headers: dict[str, Any] | None) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{_PROBLEM}"}
    found: dict[str, Any] = {"description": description, "content": {"application/problem+json": {"schema": schema}}}
    return found if headers is None else {**found, "headers": headers}


def _tidy(parameter: dict[str, Any]) -> None:
    """A parameter that is not there is not null; names are names."""
    schema = parameter["schema"]
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        parameter["schema"] = {**{key: value for key, value in schema.items() if key != "anyOf"}, **options[0]}
    if parameter["in"] == "path" and parameter["name"] == "name":
        parameter["schema"]["pattern"] = NAME_PATTERN
