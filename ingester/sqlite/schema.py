"""Tables of the telemetry file, and how an older file becomes a current one."""

import sqlite3
from pathlib import Path

from ingester.errors import StoreTooNew, StoreUnavailable

VERSION = 8
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
    -- Where the rows of a device are. Rows up to the last segment's `until` are in `found`, a segment after the other,
    -- each in its own order and written once; the few after it are looked through. An index over all rows would be
    -- written at as many places as there are devices, again and again.
    CREATE TABLE segments (
        id INTEGER PRIMARY KEY,
        found_first INTEGER NOT NULL,
        found_last INTEGER NOT NULL,
        until INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX segments_until ON segments (until);
    CREATE TABLE found (
        segment INTEGER NOT NULL,
        device TEXT NOT NULL,
        stream TEXT NOT NULL,
        found_last INTEGER NOT NULL,
        id INTEGER NOT NULL,
        found_first INTEGER NOT NULL,
        PRIMARY KEY (segment, device, stream, found_last, id)
    ) WITHOUT ROWID;
    INSERT INTO found SELECT 1, device, stream, found_last, id, found_first FROM journal
        ORDER BY device, stream, found_last, id;
    INSERT INTO segments SELECT 1, min(found_first), max(found_last), max(id) FROM journal HAVING count(*) > 0;
    DROP INDEX journal_found;
    CREATE VIEW located AS
        SELECT found.device, found.stream, found.found_last, found.id, found.found_first,
            segments.found_first AS segment_first, segments.found_last AS segment_last
        FROM segments CROSS JOIN found ON found.segment = segments.id
        UNION ALL
        SELECT device, stream, found_last, id, found_first, found_first, found_last
        FROM journal WHERE id > (SELECT coalesce(max(until), 0) FROM segments);
    CREATE TRIGGER journal_deleted AFTER DELETE ON journal BEGIN
        DELETE FROM found
        WHERE segment = (SELECT id FROM segments WHERE until >= OLD.id ORDER BY until LIMIT 1)
            AND device = OLD.device AND stream = OLD.stream AND found_last = OLD.found_last AND id = OLD.id;
    END;
    """,
    4: """
    -- Readings of messages that are not plain JSON, joined as their payloads are, with the length of each, 0 for a
    -- plain one among them. NULL where all are plain.
    ALTER TABLE journal ADD COLUMN decoded BLOB;
    ALTER TABLE journal ADD COLUMN decoded_lengths BLOB;
    ALTER TABLE quarantine ADD COLUMN codec TEXT NOT NULL DEFAULT '';
    ALTER TABLE quarantine ADD COLUMN content_type TEXT NOT NULL DEFAULT '';
    -- How many messages were deleted from quarantine because they were too old, or too many; by their reason.
    CREATE TABLE quarantine_expired (reason TEXT PRIMARY KEY, messages INTEGER NOT NULL) WITHOUT ROWID;
    """,
    5: """
    -- Files of the history. Journal rows up to the id in `sealed` are in files, and deleted bit by bit.
    CREATE TABLE sealed_files (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        place INTEGER,  -- in the order of receipt, as an id; NULL: its own
        path TEXT NOT NULL UNIQUE,
        stream TEXT NOT NULL,
        rows INTEGER NOT NULL,
        messages INTEGER NOT NULL,
        found_first INTEGER NOT NULL,
        found_last INTEGER NOT NULL,
        received_last INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        fields TEXT NOT NULL
    );
    CREATE TABLE rollup_files (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        path TEXT NOT NULL UNIQUE,
        level TEXT NOT NULL,
        rows INTEGER NOT NULL,
        found_first INTEGER NOT NULL,
        found_last INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL
    );
    -- gone: where the last reading was found of files that were deleted for their age or size.
    CREATE TABLE sealed (until INTEGER NOT NULL, gone INTEGER NOT NULL);
    INSERT INTO sealed VALUES (0, 0);
    -- What copies of messages are told by whose rows are gone; see sqlite.remembered.ENTRY.
    CREATE TABLE remembered (device TEXT PRIMARY KEY, entries BLOB NOT NULL) WITHOUT ROWID;
    """,
    6: """
    -- gate: who this journal is to a database that many write to. moved: journal rows up to this id are there.
    ALTER TABLE sealed ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sealed ADD COLUMN gate TEXT NOT NULL DEFAULT '';
    UPDATE sealed SET gate = lower(hex(randomblob(8)));
    -- The path that a file was copied to such a database under, as it may have been; it is not merged any more.
    ALTER TABLE sealed_files ADD COLUMN copied TEXT;
    """,
    7: """
    -- Births of Sparkplug's edge nodes that are in effect, and of their devices ("unit", empty: the node's own), as
    -- codecs.births keeps them. source: the broker they were read from, empty: our own.
    CREATE TABLE births (
        source TEXT NOT NULL,
        device TEXT NOT NULL,
        grp TEXT NOT NULL,
        node TEXT NOT NULL,
        unit TEXT NOT NULL,
        received INTEGER NOT NULL,
        kept BLOB NOT NULL,
        PRIMARY KEY (source, device, grp, node, unit)
    ) WITHOUT ROWID;
    CREATE INDEX births_device ON births (device);
    """,
    8: """
    -- Digests of what came last by the topics of sources: see ingester.seen.
    CREATE TABLE seen_topics (
        source TEXT NOT NULL,
        topic BLOB NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (source, topic)
    ) WITHOUT ROWID;
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
