"""How the client's methods reach the API: requests, answers, and answers that never end."""

from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote

import httpx
import orjson

PREFIX = "/api/v1"
_JSON_LINES = "application/x-ndjson"


class ApiError(Exception):
    """The API refused, or failed: `status`, and the `code` and `detail` of its problem document [RFC 9457]."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({status}, {code})")
        self.status = status
        self.code = code
        self.detail = detail


def segment(value: object, *, slashes: bool = False) -> str:
    """A name as one part of a path; client ids may have slashes.

    Raises ApiError for what would make another path, as nothing has such a name.
    """
    text = str(value)
    if not text or ("/" in text and not slashes):
        why = "it has a slash" if text else "it is empty"
        raise ApiError(404, "not_found", f"nothing is named {text[:128]!r}: {why}")
    return text.replace(".", "%2E") if text in {".", ".."} else quote(text, safe="")


class Transport:
    """Calls the API at `url` with the token of an operator. A context manager; `close` ends its connections."""

    def __init__(self, url: str, token: str, *, seconds: float = 60) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/") + PREFIX, headers={"Authorization": f"Bearer {token}"}, timeout=seconds
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def _call(self, method: str, path: str, **parts: Mapping[str, Any] | bytes) -> Any:
        """Ask: the answer's JSON, or its bytes if it is something else. Raises ApiError."""
        answer = self._http.send(self._request(method, path, parts))
        _check(answer)
        return orjson.loads(answer.content) if _kind(answer) == "application/json" else answer.content

    def _lines(self, method: str, path: str, **parts: Mapping[str, Any] | bytes) -> Iterator[dict[str, Any]]:
        """Ask for an answer that goes on: its JSON lines, or its server-sent events with `event` and `id` in them."""
        answer = self._http.send(self._request(method, path, parts, timeout=None), stream=True)
        try:
            if answer.is_error:
                answer.read()
            _check(answer)
            if _kind(answer) == _JSON_LINES:
                yield from map(orjson.loads, answer.iter_lines())
            else:
                yield from _events(answer.iter_lines())
        finally:
            answer.close()

    def _request(self, method: str, path: str, parts: Mapping[str, Any], **more: Any) -> httpx.Request:
        """Without what was not given: None."""
        given: dict[str, Any] = {
            part: _given(value) if isinstance(value, Mapping) else value for part, value in parts.items()
        }
        return self._http.build_request(method, path, **given, **more)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _kind(answer: httpx.Response) -> str:
    return str(answer.headers.get("content-type", "")).partition(";")[0]


def _check(answer: httpx.Response) -> None:
    if answer.is_error:
        try:
            problem = answer.json()
            raise ApiError(answer.status_code, problem["code"], problem["detail"])
        except (ValueError, KeyError, TypeError):
            raise ApiError(answer.status_code, "unknown", answer.text[:200]) from None


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events of one line of data each, as this server makes them."""
    event: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "data":
            event = {**orjson.loads(value), **event}
        elif name in {"event", "id"}:
            event[name] = value
        elif not line and event:
            yield event
            event = {}
