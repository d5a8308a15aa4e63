"""The ingest log."""

import json
import logging

import structlog

from fleetgate.logs import logging_to


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_and_reopening(tmp_path):
    """Every event is one JSON object; after the file was moved away, reopening begins a new one."""
    path = tmp_path / "logs" / "ingest.log"
    log = structlog.get_logger("test")
    with logging_to(path, "info", 10**6, 2) as file:
        log.info("first", device='a"\n\\\x00', number=3)
        log.debug("too fine")
        logging.getLogger("somebody.else").warning("theirs %s", "x")
        logging.getLogger("amqtt.broker").info("everyday line of a library")
        path.rename(tmp_path / "moved.log")
        log.info("second")
        file.reopen()
        log.info("third", bad="\ud800")
    moved = lines(tmp_path / "moved.log")
    assert [line["event"] for line in moved] == ["first", "theirs x", "second"]
    assert (moved[0]["device"], moved[0]["number"], moved[0]["level"]) == ('a"\n\\\x00', 3, "info")
    assert [line["event"] for line in lines(path)] == ["third"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_rotation_by_size(tmp_path):
    """A full file makes place; only so many are kept."""
    path = tmp_path / "ingest.log"
    with logging_to(path, "info", 500, 2):
        for number in range(50):
            structlog.get_logger("test").info("line", number=number)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ingest.log", "ingest.log.1", "ingest.log.2"]
    assert lines(path)[-1]["number"] == 49


def test_an_exception_has_its_traceback(tmp_path):
    """A fault is in the log whole, in one line."""
    path = tmp_path / "ingest.log"
    with logging_to(path, "info", 10**6, 2):
        try:
            raise RuntimeError("a fault")
        except RuntimeError:
            structlog.get_logger("test").exception("failed")
    (line,) = lines(path)
    assert "RuntimeError: a fault" in line["exception"]
