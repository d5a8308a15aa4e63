"""Bodies that are no JSON, as long as they are not too long."""

from fastapi import HTTPException, Request


async def read_body(request: Request, most_bytes: int) -> bytes:
    """All of it. Raises HTTPException for more than that."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most_bytes:
            raise HTTPException(413, f"a body here has at most {most_bytes} bytes")
    return bytes(found)
