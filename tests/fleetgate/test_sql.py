"""SQL over journal, history and registry: what it finds, and that there is no way out of it."""

import io
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingester.batch import Batch
from ingester.decode import Limits, scan_batch
from tests.fleetgate.test_fleet_api import add
from tests.fleetgate.test_http import client, core

__all__ = ["client", "core"]

T = 1_795_392_000_000_000
SECOND = 1_000_000


async def store(core, device: str, stream: str, *payloads: bytes, first: int = 0) -> None:
    batch = Batch()
    for number, payload in enumerate(payloads, first):
        batch.append(device, stream, T + number * SECOND, payload)
    assert scan_batch(batch, Limits()) == []
    await core.store.write(batch, [])


async def ask(client, sql: str, **more):
    return await client.post("/api/v1/sql", json={"sql": sql, **more}, timeout=60)


async def rows(client, sql: str, **more):
    answer = await ask(client, sql, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def filled(client, core):
    """Some sealed, some in the journal; fields that change their type; a device that is registered."""
    await add(client, "a", type="", site="hall", tags=["x"], attributes={"fw": "1"})
    await store(
        core, "a", "default", b'{"t": 1, "on": true}', b'{"t": 2, "name": "x"}', b'[{"t": 3}, {"t": 4, "more": [1]}]'
    )
    await store(core, "b", "radio/x", b'{"rssi": -70}')
    await core.sealer.seal(fresh_seconds=-1e6)
    await store(core, "a", "default", b'{"t": 5.5, "on": false}', b'{"t": "warm"}', first=10)
    await store(core, "b", "messages", b'{"v": 1}')
    return client


@pytest.mark.parametrize("sealed", ["nothing", "first", "apart", "together"])
@pytest.mark.parametrize("name", ["s", "s" * 201])
@pytest.mark.parametrize(
    ("policy", "expected"),
    [("keep", ['{"a":1}', '{"a":2,"b":2}', '{"b":3}']), ("merge", ['{"a":2,"b":3}']), ("drop", ['{"a":1}'])],
)
async def test_readings_of_one_time(client, core, policy: str, expected: list[str], name: str, sealed: str):
    """As the stream's rule says, in the journal, in files of their own, in shared ones; others are not touched."""
    body = {"filter": f"devices/{{device}}/telemetry/{name}", "codec": "json", "stream": name, "duplicates": policy}
    answer = await client.put("/api/v1/streams/s", json=body)
    assert answer.status_code == 200, answer.text
    for number, payload in enumerate((b'{"a":1}', b'{"a":2,"b":2}', b'{"b":3}')):
        for device in ("a", "b" * number + "c"):
            await store(core, device, name, b'{"ts":%d,' % (T // SECOND) + payload[1:], first=number)
        await store(core, "a", "default", payload)
        if sealed == "apart" or (sealed == "first" and not number):
            await core.sealer.seal(fresh_seconds=-1e6)
    if sealed == "together":
        await core.sealer.seal(fresh_seconds=-1e6)
    fields = f"SELECT field, value FROM readings WHERE device = 'a' AND stream = '{name}' ORDER BY ALL"
    wanted = sorted(item for one in expected for item in orjson.loads(one).items())
    assert [(row["field"], row["value"]) for row in await rows(client, fields)] == wanted
    counted = "SELECT stream, count(*) AS n FROM messages WHERE device = 'a' GROUP BY 1 ORDER BY 1"
    assert await rows(client, counted) == [{"stream": "default", "n": 3}, {"stream": name, "n": len(expected)}]
    others = f"SELECT count(*) AS n FROM messages WHERE device <> 'a' AND stream = '{name}'"
    assert await rows(client, others) == [{"n": 3}]
    sums = {key: sum(orjson.loads(one).get(key, 0) for one in expected) for key in dict(wanted)}
    asked = ", ".join(f"sum({key}) AS {key}" for key in sums)
    assert await rows(client, f"SELECT {asked} FROM \"{name}\" WHERE device = 'a'") == [sums]


async def test_numbers_are_numbers(filled):
    """Decimals too, which is what sums of integers are; beyond 64 bits they are text, so that nothing is lost."""
    asked = f"SELECT sum(rssi) AS whole, 1.25 AS part, 2::HUGEINT ** 70 AS power, {2**63 - 1}::HUGEINT * 8 AS huge"
    (found,) = await rows(filled, f'{asked} FROM streams."radio/x"')
    assert found == {"whole": -70, "part": 1.25, "power": 2.0**70, "huge": str(2**66 - 8)}


@pytest.mark.parametrize("sealed", [False, True])
async def test_names_that_devices_choose(client, core, sealed: bool):
    """No name of a field or stream makes a question fail; what DuckDB takes for one name is told apart."""
    fields = {"a\0b": 1, "order": 2, "Device": 3, "T": 4, "t": 5, "": 6, '"': 7, "__filename": 8, "x" * 65_000: 9}
    await store(core, "bad", "s", orjson.dumps(fields))
    await store(core, "bad", "Vibration", b'{"v": 1}')
    await store(core, "good", "vibration", b'{"v": 2}', b'{"v": 3, "V": 4}')
    await store(core, "bad", "readings", b'{"v": 4}')
    await store(core, "bad", 'a"b\n\\', b'{"v": 5}')
    if sealed:
        await core.sealer.seal(fresh_seconds=-1e6)
    found = await rows(client, "SELECT field, value FROM readings WHERE stream = 's'")
    assert {row["field"]: row["value"] for row in found} == fields
    (row,) = await rows(client, "SELECT * FROM s")
    assert (row["device"], row['"'], {**orjson.loads(row["more"]), "T": 4, "t": 5, '"': 7, "order": row["order"]}) == (
        "bad",
        7,
        fields,
    )
    assert await rows(client, "SELECT v FROM Vibration") == [{"v": 1}]
    assert await rows(client, "SELECT max(v) AS v FROM vibration") == [{"v": 3}]
    both = 'SELECT a.v, b.v FROM streams."Vibration" AS a JOIN vibration_2 AS b ON a.v < b.v ORDER BY ALL'
    assert await rows(client, both) == [{"v": 1, "v_2": 2}, {"v": 1, "v_2": 3}]
    assert await rows(client, "SELECT count(*) AS n FROM messages") == [{"n": 6}]
    assert await rows(client, "SELECT v FROM streams.readings") == [{"v": 4}]
    assert await rows(client, 'SELECT v FROM "a""b\n\\"') == [{"v": 5}]
    as_csv = await ask(client, "SELECT 1 AS a, 2 AS a, '=x' AS \"\n,\"", format="csv")
    assert as_csv.text == 'a,a_2,"\n,"\r\n1,2,=x\r\n'


@pytest.mark.parametrize("sealed", [False, True])
async def test_more_streams_and_fields_than_have_views_of_their_own(client, core, sealed: bool):
    """Thousands from one device: every value is there, and a stream that is named has its view."""
    payloads = [orjson.dumps({f"f{at}": at for at in range(start, start + 90)}) for start in range(0, 2700, 90)]
    await store(core, "many", "wide", *payloads)
    for at in range(300):
        await store(core, "many", f"s{at}", b'{"t": %d}' % at)
    if sealed:
        await core.sealer.seal(fresh_seconds=-1e6)
    counted = (
        "SELECT count(*) AS n, count(DISTINCT field) AS f, sum(value) AS total FROM readings WHERE stream = 'wide'"
    )
    assert await rows(client, counted) == [{"n": 2700, "f": 2700, "total": sum(range(2700))}]
    assert await rows(client, "SELECT value FROM readings WHERE field = 'f2699'") == [{"value": 2699}]
    assert await rows(client, "SELECT count(*) AS n FROM wide") == [{"n": 30}]
    assert await rows(client, "SELECT t FROM s7 UNION ALL SELECT t FROM s299 ORDER BY 1") == [{"t": 7}, {"t": 299}]
    total = "SELECT count(*) AS n, sum(value) AS total FROM readings WHERE field = 't'"
    assert await rows(client, total) == [{"n": 300, "total": sum(range(300))}]


async def test_the_views(filled):
    """Messages, readings, devices, and each stream with typed columns, sealed or not."""
    found = await rows(filled, "SELECT device, stream, time, payload FROM messages WHERE device = 'a' ORDER BY time")
    assert [row["payload"] for row in found] == [None, None, None, '{"t": 5.5, "on": false}', '{"t": "warm"}']
    assert (found[0]["stream"], found[0]["time"]) == ("default", "2026-11-23T00:00:00Z")
    readings = await rows(
        filled, "SELECT field, value, text FROM readings WHERE device = 'a' ORDER BY time, field, value"
    )
    assert [tuple(row.values()) for row in readings] == [
        ("on", 1.0, None), ("t", 1.0, None), ("name", None, "x"), ("t", 2.0, None), ("more", None, "[1]"),
        ("t", 3.0, None), ("t", 4.0, None), ("on", 0.0, None), ("t", 5.5, None), ("t", None, "warm"),
    ]  # fmt: skip
    assert await rows(filled, 'SELECT count(*) AS n, max(t) AS most FROM "default"') == [{"n": 6, "most": 5.5}]
    assert await rows(filled, 'SELECT rssi FROM streams."radio/x"') == [{"rssi": -70}]
    assert await rows(filled, "SELECT v FROM streams.messages") == [{"v": 1}]
    (times,) = await rows(
        filled, "SELECT typeof(last_seen) AS seen, created > TIMESTAMPTZ '2026-01-01' AS created FROM devices"
    )
    assert times == {"seen": "TIMESTAMP WITH TIME ZONE", "created": True}
    (device,) = await rows(filled, "SELECT * EXCLUDE (created, last_seen) FROM devices")
    assert device == {
        "name": "a", "display_name": "", "type": "", "site": "hall", "state": "registered", "tags": ["x"],
        "attributes": '{"fw":"1"}', "connected": False,
    }  # fmt: skip
    joined = (
        "SELECT site, avg(value) AS mean FROM readings JOIN devices ON device = name WHERE field = 't' GROUP BY site"
    )
    assert await rows(filled, joined) == [{"site": "hall", "mean": 3.1}]


async def test_rollups(filled, core):
    """Sums of what is sealed, by minute, hour and day; what comes late is added; they outlive the readings."""
    await store(core, "a", "default", b'{"t": 10}', first=5)
    await core.sealer.seal(fresh_seconds=-1e6)
    await core.store.drop(lambda files: files)
    sql = "SELECT level, time, count, min, max, sum, last FROM rollups WHERE field = 't' ORDER BY level"
    expected = {"time": "2026-11-23T00:00:00Z", "count": 6, "min": 1.0, "max": 10.0, "sum": 25.5, "last": 5.5}
    assert await rows(filled, sql) == [{"level": level, **expected} for level in ("1d", "1h", "1m")]
    on = "SELECT sum, count FROM rollups WHERE field = 'on' AND level = '1d'"
    assert await rows(filled, on) == [{"sum": 1.0, "count": 2}]
    assert await rows(filled, "SELECT count(*) AS n FROM readings") == [{"n": 0}]


async def test_forms(filled):
    """JSON, CSV, Parquet, Arrow: the same rows."""
    sql = "SELECT device, time, t FROM streams.default WHERE t < 3 ORDER BY t"
    as_csv = await ask(filled, sql, format="csv")
    assert as_csv.text == ("device,time,t\r\na,2026-11-23T00:00:00Z,1.0\r\na,2026-11-23T00:00:01Z,2.0\r\n")
    parquet = pq.read_table(io.BytesIO((await ask(filled, sql, format="parquet")).content))
    arrow = pa.ipc.open_stream((await ask(filled, sql, format="arrow")).content).read_all()
    assert parquet.to_pylist() == arrow.to_pylist()
    assert parquet.column("t").to_pylist() == [1.0, 2.0]
    assert await rows(filled, "SELECT t FROM streams.default WHERE t > 100") == []


WAYS_OUT = [
    "",
    " ",
    "SELEC 1",
    "SELECT * FROM nowhere",
    "SELECT 1; SELECT 2",
    "CREATE TABLE x AS SELECT 1",
    "INSERT INTO devices VALUES (1)",
    "DELETE FROM devices_now",
    "DROP VIEW messages",
    "COPY messages TO '{target}'",
    "COPY (SELECT 1) TO '{target}' (FORMAT parquet)",
    "COPY (SELECT 1) TO '{sealed}' (FORMAT parquet)",
    "EXPORT DATABASE '{folder}'",
    "ATTACH '{target}' AS x",
    "ATTACH ':memory:' AS x",
    "INSTALL httpfs",
    "LOAD '{target}'",
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "EXPLAIN ANALYZE COPY messages TO '{target}'",
    "PREPARE x AS SELECT 1",
    "SELECT * FROM '{sealed}'",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('{journal}')",
    "SELECT * FROM read_parquet('{sealed}')",
    "SELECT * FROM parquet_metadata('{sealed}')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM sqlite_scan('{journal}', 'journal')",
    "SELECT * FROM read_csv('http://127.0.0.1:1/x')",
    "SELECT * FROM query('COPY messages TO ''{target}''')",
    "SELECT getenv('HOME')",
    "SELECT * FROM question",
    "SELECT * FROM connection",
    "VACUUM",
    "CHECKPOINT",
    "USE streams",
    "BEGIN TRANSACTION",
]


async def test_there_is_no_way_out(filled, core, tmp_path: Path):
    """No file is read but by the views, none is written, nothing is changed or loaded; one clear error each."""
    sealed = core.store.folder / core.store.catalogue.files[0].path
    before = sealed.read_bytes()
    places = {
        "target": tmp_path / "stolen", "sealed": sealed, "folder": tmp_path / "export",
        "journal": core.store.folder.parent / "journal.db",
    }  # fmt: skip
    for sql in WAYS_OUT:
        answer = await ask(filled, sql.format(**places))
        assert answer.status_code == 422, (sql, answer.text)
        assert answer.json()["detail"], sql
        assert sealed.read_bytes() == before, sql
        assert not (tmp_path / "stolen").exists(), sql
        assert not (tmp_path / "export").exists(), sql


async def test_bounds(filled):
    """Time, memory and rows end somewhere, each with its word; the next question is answered."""
    for sql, more, word in (
        ("SELECT count(*) FROM range(100000000000) a, range(1000) b", {"seconds": 1}, "more than 1 seconds"),
        ("SELECT list(range) FROM range(1000000000)", {"memory_bytes": 64 * 1024**2}, "emory"),
        ("SELECT * FROM range(100)", {"rows": 99}, "more than 99 rows"),
    ):
        answer = await ask(filled, sql, **more)
        assert answer.status_code == 422
        assert word in answer.json()["detail"]
    assert len(await rows(filled, "SELECT * FROM range(100)", rows=100)) == 100
    assert (await ask(filled, "SELECT 1", format="xml")).status_code == 422


async def test_without_anything(client):
    """An empty state has its views."""
    assert await rows(client, "SELECT * FROM messages") == []
    assert await rows(client, "SELECT * FROM readings") == []
    assert await rows(client, "SELECT count(*) AS n FROM devices") == [{"n": 0}]


async def test_one_field_of_many_devices(filled, core):
    """Of all, or those that a fleet query finds; all together, or apart by what is known of them."""
    await add(filled, "b", type="", site="hall", attributes={"fw": "2"})
    await add(filled, "c", type="", site="yard")
    await store(core, "c", "default", b'{"t": 7}', b'{"t": 9, "ts": 1795395600000}', b'{"t": 9, "ts": 1795395600001}')

    async def asked(**params):
        answer = await filled.get("/api/v1/telemetry/buckets", params={"bucket": "1h", **params}, timeout=60)
        assert answer.status_code == 200, answer.text
        return [tuple(row.values()) for row in answer.json()]

    first, second = "2026-11-23T00:00:00Z", "2026-11-23T01:00:00Z"
    everything = [(first, 6, 1, 7, pytest.approx(22.5 / 6), 2), (second, 2, 9, 9, 9, 1)]
    assert await asked(field="t") == everything
    assert await asked(field="t", query="") == everything
    assert await asked(field="t", query="site:hall") == [(first, 5, 1, 5.5, pytest.approx(3.1), 1)]
    assert await asked(field="t", to=first) == [(first, 2, 1, 7, 4, 2)]
    assert await asked(field="t", **{"from": second}) == [everything[1]]
    assert await asked(field="t", stream="radio/x") == []
    assert await asked(field="t", by="site", to="2026-11-23T00:30:00Z") == [
        (first, "hall", 5, 1, 5.5, pytest.approx(3.1), 1),
        (first, "yard", 1, 7, 7, 7, 1),
    ]
    assert await asked(field="rssi", by="attributes.fw") == [(first, "2", 1, -70, -70, -70, 1)]
    assert [row[1] for row in await asked(field="t", by="device", query="state:registered")] == ["a", "c", "c"]
    assert await asked(field="it's") == []
    for params, said in (
        ({"field": "t", "bucket": "soon"}, "bucket"),
        ({"field": "t", "by": "colour"}, "by: 'colour'"),
        ({"field": "t", "query": "nope:"}, "column"),
        ({"field": "t", "from": "then"}, "from"),
    ):
        answer = await filled.get("/api/v1/telemetry/buckets", params={"bucket": "1h", **params})
        assert answer.status_code == 422
        assert said in answer.text
