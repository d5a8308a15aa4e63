"""Bulk: registers a list of devices, all of them or none, and says what is wrong with which row."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from cryptography import x509

from fleet.authority import read_certificate
from fleet.errors import FleetError
from fleet.identity import Kind
from fleet.provisioning.rows import BadRow, Row
from fleet.registry.adding import Adding, New
from fleet.registry.inventory import Inventory
from fleet.registry.service import Registry

_SLICE = 50
_BAD_ROWS = 1000

CheckCertificate = Callable[[str, x509.Certificate], None]
"""Raises a FleetError when a certificate would not be admitted for this device name."""


@dataclass
class Report:
    """What came of a list. `bad` has the first of the bad rows, `bad_count` counts all."""

    rows: int = 0
    added: int = 0
    bad_count: int = 0
    bad: list[BadRow] = field(default_factory=list)


class _Nothing(Exception):  # noqa: N818 - not an error: what was tried is not to be kept
    """Nothing of it is to stay."""


async def register(
    registry: Registry,
    inventory: Inventory,
    rows: Iterable[Row | BadRow],
    check_certificate: CheckCertificate,
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
                    _add(row, inventory, adding, check_certificate, report)
                await adding.write()
                progress(report.rows)
                await asyncio.sleep(0)
            _keep_if(not dry_run and (skip_bad or not report.bad_count))
    except _Nothing:
        pass
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


def _add(
    row: Row | BadRow, inventory: Inventory, adding: Adding, check_certificate: CheckCertificate, report: Report
) -> None:
    report.rows += 1
    if isinstance(row, Row):
        try:
            certificate = _certificate(row, check_certificate)
            adding.add(New(Kind.DEVICE, row.name, certificate, details=inventory.check(row.details)))
        except FleetError as error:
            row = BadRow(row.number, row.name, str(error))
        else:
            report.added += 1
            return
    report.bad_count += 1
    if len(report.bad) < _BAD_ROWS:
        report.bad.append(row)


def _certificate(row: Row, check: CheckCertificate) -> x509.Certificate | None:
    if row.certificate is None:
        return None
    found = read_certificate(row.certificate.encode())
    check(row.name, found)
    return found
