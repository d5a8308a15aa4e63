"""Bodies of requests: JSON, and other forms up to a limit."""

from fastapi import HTTPException, Request


def is_json(request: Request) -> bool:
    """Whether a body is read as JSON, as the framework does: application/json, and application/...+json."""
    kind, _, subtype = request.headers.get("content-type", "").partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


async def read_body(request: Request, most_bytes: int) -> bytes:
    """All of it. Raises HTTPException for more than that."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most_bytes:
            raise HTTPException(413, f"a body here has at most {most_bytes} bytes")
    return bytes(found)
