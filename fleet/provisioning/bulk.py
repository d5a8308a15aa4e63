"""Bulk: registers a list of devices, all of them or none, and says what is wrong with which row."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from cryptography import x509

from fleet.errors import FleetError
from fleet.identity import Kind
from fleet.provisioning.rows import BadRow, Row
from fleet.registry.adding import Adding, New
from fleet.registry.inventory import Inventory
from fleet.registry.service import Registry

_SLICE = 50
_BAD_ROWS = 1000

Certify = Callable[[Row], Awaitable[Sequence[x509.Certificate]]]
"""The certificate of a row that has one, or asks for one, which is issued then. With those above it. Raises FleetError
when it would not be let in.
"""


@dataclass
class Report:
    """What came of a list. `bad` has the first of the bad rows, `bad_count` counts all; `issued` has certificates by
    device, for those that asked for one.
    """

    rows: int = 0
    added: int = 0
    bad_count: int = 0
    bad: list[BadRow] = field(default_factory=list)
    issued: dict[str, Sequence[x509.Certificate]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    """Of the devices that were registered."""


class _Nothing(Exception):  # noqa: N818 - not an error: what was tried is not to be kept
    """Nothing of it is to stay."""


async def register(
    registry: Registry,
    inventory: Inventory,
    rows: Iterable[Row | BadRow],
    certify: Certify,
    *,
    dry_run: bool = False,
    skip_bad: bool = False,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Report:
    """Register what is in the rows. With a bad row nothing is, unless `skip_bad`; in a dry run nothing is anyway.

    `progress` hears how many rows were looked at.
    """
    report = Report()
    try:
        async with registry.adding() as adding:
            for part in _slices(rows):
                for row in part:
                    await _add(row, inventory, adding, certify, report)
                await adding.write()
                progress(report.rows)
                await asyncio.sleep(0)
            _keep_if(not dry_run and (skip_bad or not report.bad_count))
    except _Nothing:
        report.issued.clear()
        report.names.clear()
    if report.bad_count and not skip_bad:
        report.added = 0
    return report


def _keep_if(wanted: bool) -> None:
    if not wanted:
        raise _Nothing


def _slices(rows: Iterable[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    left = iter(rows)
    while part := list(islice(left, _SLICE)):
        yield part


async def _add(row: Row | BadRow, inventory: Inventory, adding: Adding, certify: Certify, report: Report) -> None:
    report.rows += 1
    if isinstance(row, Row):
        try:
            details = inventory.check(row.details)
            chain = await certify(row) if row.certificate or row.csr else None
            await adding.add(New(Kind.DEVICE, row.name, chain[0] if chain else None, details=details))
        except FleetError as error:
            row = BadRow(row.number, row.name, str(error))
        else:
            report.added += 1
            report.names.append(row.name)
            if row.csr is not None and chain is not None:
                report.issued[row.name] = chain
            return
    report.bad_count += 1
    if len(report.bad) < _BAD_ROWS:
        report.bad.append(row)
