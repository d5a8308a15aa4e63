"""Lists of devices: registered all or none, as an operation."""

import asyncio
import io
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response

from fleet.audit.model import MAX_TARGETS, Outcome, Result
from fleet.authority.chain import pem_of
from fleet.identity import Kind
from fleet.provisioning.bulk import register
from fleet.provisioning.rows import Form, decode, read
from fleetgate.core import Core
from fleetgate.http.access import Acting
from fleetgate.http.bodies import read_body
from fleetgate.http.devices import certificate_for
from fleetgate.http.operations import OperationView, view
from fleetgate.operations import Operation

_MEDIA_TYPES = {"text/csv": Form.CSV, "application/x-ndjson": Form.JSON_LINES}
_LIST = {"schema": {"type": "string"}}
_LIST_BYTES = 512 * 1024 * 1024


def router(core: Core) -> APIRouter:
    """Build the routes of this feature."""
    routes = APIRouter()

    @routes.post(
        "/device-imports",
        status_code=202,
        summary="Register a list of devices: CSV or JSON lines",
        openapi_extra={"requestBody": {"required": True, "content": dict.fromkeys(_MEDIA_TYPES, _LIST)}},
    )
    async def import_devices(
        request: Request,
        response: Response,
        begun: Acting,
        content_type: Annotated[str, Header(include_in_schema=False)],
        dry_run: Annotated[bool, Query(description="say what would come of it")] = False,
        skip_bad: Annotated[bool, Query(description="register the good rows, whatever the others are")] = False,
    ) -> OperationView:
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type not in _MEDIA_TYPES:
            raise HTTPException(415, f"Content-Type: {' or '.join(_MEDIA_TYPES)}, not {media_type[:100]!r}")
        text = await asyncio.to_thread(decode, await read_body(request, _LIST_BYTES))
        rows = read(io.StringIO(text, newline=""), _MEDIA_TYPES[media_type])

        async def work(operation: Operation) -> dict[str, Any]:
            report = await register(
                core.registry,
                core.inventory,
                rows,
                lambda row: certificate_for(core, Kind.DEVICE, row.name, row.csr, row.certificate),
                dry_run=dry_run,
                skip_bad=skip_bad,
                progress=operation.advance,
            )
            operation.total = report.rows
            for start in range(0, len(report.names), MAX_TARGETS):
                targets = tuple(("device", name) for name in report.names[start : start + MAX_TARGETS])
                added = replace(begun.act, action="device.add", targets=targets, facts={"operation": operation.id})
                await core.audit.add(added, Result(Outcome.DONE))
            bad = [{"line": row.number, "name": row.name, "problem": row.problem} for row in report.bad]
            return {
                "rows": report.rows,
                "added": report.added,
                "dry_run": dry_run,
                "bad_count": report.bad_count,
                "bad": bad,
                "issued": {name: pem_of(chain).decode() for name, chain in report.issued.items()},
                "ca": core.authority.ca_pem.decode(),
            }

        operation = core.operations.start("device-import", text.count("\n"), work, begun)
        response.headers["Location"] = f"/api/v1/operations/{operation.id}"
        return view(operation)

    return routes
