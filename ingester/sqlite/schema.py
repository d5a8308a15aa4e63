"""Tables of the telemetry file, and how an older file becomes a current one."""

import sqlite3
from pathlib import Path

from ingester.errors import StoreTooNew, StoreUnavailable

VERSION = 3
_MIGRATIONS = {
    1: """
    -- A row holds the messages of one device and stream out of one batch, payloads joined. found_* and received_* bound
    -- their times (microseconds). received and lengths are arrays, one entry a message; NULL where the row has one time
    -- of receipt, or one message.
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY,
        device TEXT NOT NULL,
        stream TEXT NOT NULL,
        found_first INTEGER NOT NULL,
        found_last INTEGER NOT NULL,
        received_last INTEGER NOT NULL,
        received BLOB,
        lengths BLOB,
        payloads BLOB NOT NULL
    );
    CREATE INDEX journal_found ON journal (device, stream, found_last, found_first);
    CREATE TABLE series (
        device TEXT NOT NULL,
        stream TEXT NOT NULL,
        PRIMARY KEY (device, stream)
    ) WITHOUT ROWID;
    CREATE TABLE quarantine (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        received INTEGER NOT NULL,
        device TEXT NOT NULL,
        stream TEXT NOT NULL,
        topic TEXT NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE INDEX quarantine_device ON quarantine (device);
    """,
    2: """
    -- The number of the connection that the row's messages came by, and the packet identifier of each, two bytes: what
    -- a message sent again is told by. NULL where it can't come again.
    ALTER TABLE journal ADD COLUMN connection INTEGER;
    ALTER TABLE journal ADD COLUMN packet_ids BLOB;
    """,
    3: """
    -- Where the rows of a device are. Rows up to found_until.id are in `found`; the few after it are looked through: an
    -- index kept row by row costs more than all the rest of a commit when a thousand devices take part in it.
    CREATE TABLE found (
        device TEXT NOT NULL,
        stream TEXT NOT NULL,
        found_last INTEGER NOT NULL,
        id INTEGER NOT NULL,
        found_first INTEGER NOT NULL,
        PRIMARY KEY (device, stream, found_last, id)
    ) WITHOUT ROWID;
    CREATE TABLE found_until (id INTEGER NOT NULL);
    INSERT INTO found SELECT device, stream, found_last, id, found_first FROM journal
        ORDER BY device, stream, found_last, id;
    INSERT INTO found_until SELECT coalesce(max(id), 0) FROM journal;
    DROP INDEX journal_found;
    CREATE VIEW located AS
        SELECT device, stream, found_last, id, found_first FROM found
        UNION ALL
        SELECT device, stream, found_last, id, found_first FROM journal WHERE id > (SELECT id FROM found_until);
    CREATE TRIGGER journal_deleted AFTER DELETE ON journal BEGIN
        DELETE FROM found
        WHERE device = OLD.device AND stream = OLD.stream AND found_last = OLD.found_last AND id = OLD.id;
    END;
    """,
}


def migrate(path: Path) -> None:
    """Make the file, or bring an older one up to VERSION: each step whole or not at all.

    Raises StoreTooNew for a file of a newer version, StoreUnavailable when it can't be opened or written.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > VERSION:
            raise StoreTooNew(f"{path} has telemetry schema {found}; this fleetgate knows up to {VERSION}")
        for version in range(found + 1, VERSION + 1):
            # One script in one transaction: a kill at any point leaves the version before.
            connection.executescript(f"BEGIN IMMEDIATE; {_MIGRATIONS[version]} PRAGMA user_version={version}; COMMIT;")
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    finally:
        connection.close()
