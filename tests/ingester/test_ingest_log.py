"""What the ingest log says of commits."""

import structlog

from ingester.batch import Batch, Quarantined
from ingester.ingest_log import IngestLog
from ingester.pipeline import Committed

SECOND = 1_000_000


def test_first_at_once_then_summed_up_and_never_a_payload():
    """One line a device and minute, with what was counted since; quarantine with its reason."""
    now = [0]
    ingest_log = IngestLog(lambda: now[0])
    secret = Quarantined(0, "a", "s", "not_json", "no", b"secret")
    with structlog.testing.capture_logs() as lines:
        ingest_log.committed(Committed(Batch(), {"a": 2, "b": 1}, [secret, secret]))
        now[0] = 30 * SECOND
        ingest_log.committed(Committed(Batch(), {"a": 5}, []))
        now[0] = 60 * SECOND
        ingest_log.committed(Committed(Batch(), {"a": 1}, []))
    assert [(line["event"], line["device"], line["messages"]) for line in lines] == [
        ("stored", "a", 2),
        ("stored", "b", 1),
        ("quarantined", "a", 2),
        ("stored", "a", 6),
    ]
    assert "secret" not in repr(lines)


def test_lines_are_limited_in_all():
    """However many devices there are, the log grows by at most 100 lines a second."""
    now = [0]
    ingest_log = IngestLog(lambda: now[0])
    with structlog.testing.capture_logs() as lines:
        ingest_log.committed(Committed(Batch(), {f"d{n}": 1 for n in range(500)}, []))
        assert len(lines) == 100
        now[0] = SECOND
        ingest_log.committed(Committed(Batch(), {"late": 1}, []))
    assert lines[-1]["device"] == "late"
