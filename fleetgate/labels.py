"""Labels for devices as PDF: each with a QR code and its name, on sheets of labels (extra `labels`)."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

from fleetgate.errors import ArgumentError

# Imports are inside of the functions because they are of an optional extra.

_MARGIN = 3.0
"""Around what is on a label, in millimetres."""
_LARGEST, _SMALLEST = 11.0, 4.0
"""Of the name's letters, in points; a longer name than fits is in more lines."""
_LINES = 3
_LONGEST = 300
"""Characters of a QR code that a telephone still reads from a label."""


@dataclass(frozen=True, slots=True)
class Label:
    """`code` is what the QR code says; `lines` stand beside it, the first one larger."""

    code: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """How labels lie on a page, in millimetres: `columns` by `rows`, the first one `left` and `top` of its edges."""

    page: tuple[float, float]
    columns: int
    rows: int
    left: float
    top: float
    label: tuple[float, float]
    gap: float = 0.0


class SheetName(StrEnum):
    """What is sold: A4 with 24 and 21, US letter with 30."""

    A4_24 = "a4-3x8"
    A4_21 = "a4-3x7"
    LETTER_30 = "letter-3x10"


SHEETS = {
    SheetName.A4_24: Sheet((210, 297), 3, 8, 0.0, 4.5, (70, 36)),
    SheetName.A4_21: Sheet((210, 297), 3, 7, 7.25, 15.15, (63.5, 38.1), 2.5),
    SheetName.LETTER_30: Sheet((215.9, 279.4), 3, 10, 4.8, 12.7, (66.7, 25.4), 3.2),
}


def draw(labels: Iterable[Label], sheet: Sheet) -> bytes:
    """The PDF. Raises ArgumentError where the extra is missing, or a code is too long to be read from a label."""
    if find_spec("reportlab") is None:
        raise ArgumentError("this needs the extra labels: pip install fleetgate[labels]")
    from reportlab.lib.units import mm
    from reportlab.pdfgen.canvas import Canvas

    written = io.BytesIO()
    canvas = Canvas(written, pagesize=(sheet.page[0] * mm, sheet.page[1] * mm), pageCompression=1, invariant=1)
    canvas.setTitle("fleetgate: labels")
    for number, label in enumerate(labels):
        if len(label.code) > _LONGEST:
            raise ArgumentError(f"{label.code[:60]!r}... is too long for a QR code: {_LONGEST} characters at most")
        place = number % (sheet.columns * sheet.rows)
        if number and not place:
            canvas.showPage()
        row, column = divmod(place, sheet.columns)
        left = sheet.left + column * (sheet.label[0] + sheet.gap)
        bottom = sheet.page[1] - sheet.top - (row + 1) * sheet.label[1]
        canvas.saveState()
        canvas.translate(left * mm, bottom * mm)
        _draw_one(canvas, label, sheet.label[0] * mm, sheet.label[1] * mm, _MARGIN * mm)
        canvas.restoreState()
    canvas.save()
    return written.getvalue()


def _draw_one(canvas: Any, label: Label, width: float, height: float, margin: float) -> None:
    from reportlab.graphics import renderPDF
    from reportlab.graphics.barcode.qr import QrCodeWidget
    from reportlab.graphics.shapes import Drawing

    side = height - 2 * margin
    code = QrCodeWidget(label.code, barWidth=side, barHeight=side, barBorder=2, barLevel="M")
    drawing = Drawing(side, side)
    drawing.add(code)
    renderPDF.draw(drawing, canvas, margin, margin)
    left, room = side + 2 * margin, width - side - 3 * margin
    y = height - margin - _LARGEST
    for number, line in enumerate(label.lines):
        size, parts = _fitted(line, room, _LARGEST if number == 0 else _LARGEST * 0.7)
        canvas.setFont("Helvetica-Bold" if number == 0 else "Helvetica", size)
        for part in parts:
            canvas.drawString(left, y, part)
            y -= size * 1.25


def _fitted(text: str, room: float, size: float) -> tuple[float, list[str]]:
    """Its size and lines: as large as goes into some lines of the room."""
    from reportlab.pdfbase.pdfmetrics import stringWidth

    while True:
        parts = [""]
        for letter in text:
            if stringWidth(parts[-1] + letter, "Helvetica-Bold", size) > room:
                parts.append("")
            parts[-1] += letter
        if len(parts) <= _LINES or size <= _SMALLEST:
            return size, parts
        size -= 0.5
