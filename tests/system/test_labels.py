"""Labels: rendered and read again by a scanner's library."""

import json

import pypdfium2
import pytest
import zxingcpp

from fleetgate.labels import SHEETS, Label, draw
from tests.system.gate import Gate


def scanned(file) -> list[set[str]]:
    """What the QR codes of each page say."""
    with pypdfium2.PdfDocument(file) as document:
        images = [page.render(scale=3).to_pil() for page in document]
        return [{found.text for found in zxingcpp.read_barcodes(image)} for image in images]


def text(file) -> str:
    with pypdfium2.PdfDocument(file) as document:
        return "\n".join(page.get_textpage().get_text_bounded() for page in document)


@pytest.mark.parametrize("sheet", SHEETS)
def test_each_label_can_be_scanned(tmp_path, sheet: str):
    """On every sheet, over more than a page, with the shortest names and the longest."""
    names = [f"device-{number:03}" for number in range(40)] + ["a", "x" * 128]
    (tmp_path / "labels.pdf").write_bytes(draw([Label(name, (name, "pump")) for name in names], SHEETS[sheet]))
    pages = scanned(tmp_path / "labels.pdf")
    most = SHEETS[sheet].columns * SHEETS[sheet].rows
    assert [len(page) for page in pages] == [min(most, 42 - start) for start in range(0, 42, most)]
    assert set().union(*pages) == set(names)
    assert "device-007" in text(tmp_path / "labels.pdf")


def test_labels_for_a_bulk_enrolment(tmp_path):
    """For devices that were imported, found by a query; and for a list of those that are to come."""
    gate = Gate(tmp_path)
    gate.folder.mkdir(exist_ok=True)
    (tmp_path / "list.csv").write_text("name,site\nlamp-1,yard\nlamp-2,yard\npump-1,hall\n")
    gate.run("device", "import", "list.csv")
    url = "https://gate.example.com/{name}?at={site}"
    assert gate.json("device", "labels", "yard.pdf", "--query", "site:yard", "--code", url)["labels"] == 2
    wanted = {f"https://gate.example.com/lamp-{number}?at=yard" for number in (1, 2)}
    assert scanned(tmp_path / "yard.pdf") == [wanted]
    (tmp_path / "boards.csv").write_text("value\n0001\n0002\n")
    gate.run("enrolment", "set", "boards", "boards.csv")
    gate.run("device", "labels", "boards.pdf", "--enrolment", "boards", "--sheet", "letter-3x10")
    assert scanned(tmp_path / "boards.pdf") == [{"0001", "0002"}]
    for bad, problem in (
        (("--query", "name:nobody"), "no device is found"),
        (("--code", "{nmae}"), "--code: {nmae} is none of {name}, {type}, {site}"),
        (("--code", "{"), "--code:"),
        (("--code", "x" * 4000), "is too long for a QR code"),
        (("--query", "a", "--enrolment", "boards"), "exclude each other"),
    ):
        done = gate.run("device", "labels", "bad.pdf", *bad, check=False)
        assert done.returncode != 0
        assert problem in json.dumps(done.stderr), done.stderr
    assert not (tmp_path / "bad.pdf").exists()
