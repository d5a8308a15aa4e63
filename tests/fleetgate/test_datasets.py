"""Datasets: asked in time, each telemetry once, kept and brought, and what is wrong is said."""

import asyncio
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from fleet.errors import NotFoundError
from fleet.registry.database import Database
from fleetgate.analytics.question import Answer, Form
from fleetgate.analytics.service import QuestionError
from fleetgate.datasets import Dataset, Datasets, Definition
from ingester.errors import StoreUnavailable
from ingester.ledger import Ledger
from ingester.source_mqtt import MqttSource, SourceConfig
from tests.fleetgate.test_http import client, core
from tests.fleetgate.test_sql import SECOND, T, store
from tests.waiting import until

__all__ = ["client", "core"]

HOUR = 3600 * SECOND
COUNT = "SELECT device, count(*) AS n FROM messages WHERE received > $since AND received <= $until GROUP BY 1"


class Analyst:
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.windows: list[tuple[int, int]] = []
        self.wrong: Exception | None = None

    async def ask(self, sql, form, bounds, window) -> Answer:
        if self.wrong is not None:
            raise self.wrong
        self.windows.append(window)
        return Answer(f"{sql} {form} {bounds.rows}".encode(), 7)


@pytest.fixture
def analyst() -> Analyst:
    return Analyst()


class Clock:
    def __init__(self) -> None:
        self.now = T + 5

    def __call__(self) -> int:
        return self.now

    async def settled(self) -> int:
        return self.now - SECOND


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(tmp_path):
    async with Database(tmp_path / "fleet.db") as opened:
        yield opened


@pytest.fixture
async def datasets(database, analyst, tmp_path, clock):
    async with Datasets(database, analyst, tmp_path / "made", clock.settled, clock) as made:
        yield made


async def test_each_result_goes_on_where_the_last_one_ended(datasets, analyst, clock, database, tmp_path):
    """After an error too, and after a restart; the oldest go."""
    await datasets.put("d", Definition(sql="one", keep=2))
    first = await datasets.run("d")
    assert (first.number, first.since, first.until, first.rows) == (1, 0, T + 5 - SECOND, 7)
    assert first.delivered, "there is nowhere to bring it"
    clock.now += HOUR
    analyst.wrong = QuestionError("too slow")
    with pytest.raises(QuestionError, match="too slow"):
        await datasets.run("d")
    assert (datasets.get("d").problem, datasets.get("d").ran) == ("too slow", clock.now)
    analyst.wrong = None
    await datasets.run("d")
    assert datasets.get("d").problem == ""
    await datasets.put("d", Definition(sql="two", keep=2, format=Form.JSON))
    async with Datasets(database, analyst, tmp_path / "made", clock.settled, clock) as again:
        assert again.get("d") == datasets.get("d")
        clock.now += HOUR
        await again.run("d")
        assert again.get("d").version == 2
    assert analyst.windows == [
        (0, T + 5 - SECOND),
        (T + 5 - SECOND, T + 5 + HOUR - SECOND),
        (T + 5 + HOUR - SECOND, T + 5 + 2 * HOUR - SECOND),
    ]
    kept = await datasets.versions("d")
    assert [version.file_name for version in kept] == ["d-000002.csv", "d-000003.json"]
    assert sorted(path.name for path in (tmp_path / "made" / "d").iterdir()) == ["d-000002.csv", "d-000003.json"]
    version, data = await datasets.read("d")
    assert (version.number, data, version.sha256) == (3, b"two json 100000", hashlib.sha256(data).hexdigest())
    assert (await datasets.read("d", 2))[1] == b"one csv 100000"
    for asking in (datasets.read("d", 1), datasets.read("x"), datasets.run("x"), datasets.delete("x")):
        with pytest.raises(NotFoundError):
            await asking
    await datasets.delete("d")
    assert list((tmp_path / "made" / "d").iterdir()) == []
    await datasets.put("d", Definition(sql="three"))
    assert (await datasets.run("d")).number == 1


def test_when_it_is_due():
    """At multiples of its time; at once at first, after a pause, and when the clock was set back."""
    made = Dataset("d", Definition(sql="x", every="1h"), 1)
    assert made.due(5)
    ran = Dataset("d", Definition(sql="x", every="1h"), 1, ran=10 * HOUR + 17)
    assert ran.next_run() == 11 * HOUR
    assert not ran.due(11 * HOUR - 1)
    assert ran.due(11 * HOUR)
    assert ran.due(10 * HOUR)


async def test_by_itself(datasets, analyst, clock):
    """In its time; one that fails keeps nobody waiting."""
    await datasets.put("bad", Definition(sql="x"))
    await datasets.put("good", Definition(sql="x"))
    real = analyst.ask

    async def ask(sql, *arguments):
        if len(analyst.windows) < 1 and not failed:
            failed.append(sql)
            raise StoreUnavailable("not now")
        return await real(sql, *arguments)

    failed: list[str] = []
    analyst.ask = ask
    with capture_logs() as logs:
        datasets.start()
        await until(lambda: datasets.get("good").watermark)
    assert [entry["dataset"] for entry in logs if entry["log_level"] == "error"] == ["bad"]
    assert datasets.get("bad").problem == "not now"
    assert not datasets.get("bad").watermark
    clock.now += HOUR
    await until(lambda: datasets.get("bad").watermark)
    assert len(await datasets.versions("bad")) == 1


async def test_one_that_fails_is_seen_until_it_is_made(datasets, analyst, clock):
    """Its failure is one of background work, named with the dataset, between its turns too; others are made."""
    health = datasets._every.health
    await datasets.put("bad", Definition(sql="x"))
    analyst.wrong = QuestionError("no such column")
    for _ in range(3):
        await datasets._every.once()
        clock.now += SECOND
    assert (health.failures, health.error) == (3, "bad: no such column")
    analyst.wrong = OSError("disk full")
    clock.now += HOUR
    await datasets._every.once()
    assert (health.failures, health.error) == (4, "disk full")
    analyst.wrong = None
    await datasets._every.once()
    assert health.failures == 0


async def test_brought_to_a_folder_and_to_a_webhook(datasets, clock, tmp_path, analyst):
    """Tried again until it is taken, in order; who takes it can tell which it is."""
    taken, status = [], [500]

    async def take(request: web.Request) -> web.Response:
        if status[0] == 200:
            taken.append((request.headers["Idempotency-Key"], request.headers["Content-Type"], await request.read()))
        return web.Response(status=status[0])

    application = web.Application()
    application.router.add_post("/hook", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    out = tmp_path / "out"
    await datasets.put("d", Definition(sql="x", folder=str(out), webhook=f"http://127.0.0.1:{port}/hook", keep=3))
    for _ in range(3):
        await datasets.run("d")
    assert await datasets.deliver() == 0
    first, *_ = await datasets.versions("d")
    assert (first.delivered, first.problem) == (0, f"folder {out}: No such file or directory")
    out.mkdir()
    assert await datasets.deliver() == 0, "a minute later"
    clock.now += 61 * SECOND
    assert await datasets.deliver() == 0
    first, *_ = await datasets.versions("d")
    assert first.problem == f"webhook http://127.0.0.1:{port}/hook: status 500"
    status[0] = 200
    clock.now += 61 * SECOND
    assert await datasets.deliver() == 3
    assert await datasets.deliver() == 0
    assert [key for key, *_ in taken] == ["d/1", "d/2", "d/3"]
    assert set(taken[0][1:]) == {"text/csv", b"x csv 100000"}
    assert sorted(path.name for path in out.iterdir()) == [f"d-00000{number}.csv" for number in (1, 2, 3)]
    assert all(version.delivered and not version.problem for version in await datasets.versions("d"))
    await runner.cleanup()
    with capture_logs() as logs:
        for _ in range(5):
            await datasets.run("d")
            clock.now += 61 * SECOND
            await datasets.deliver()
    lost = [entry for entry in logs if entry["event"] == "a result was never delivered"]
    assert [entry["number"] for entry in lost] == [4, 5]


async def test_over_http(client, core, tmp_path: Path):
    """What was received is counted once: in one result or in the next one."""
    await store(core, "a", "s", b'{"v": 1}', b'{"v": 2}')
    url = "/api/v1/datasets/counts"
    made = await client.put(url, json={"sql": COUNT, "every": "1d", "folder": str(tmp_path)})
    assert (made.status_code, made.headers["ETag"]) == (200, '"1"')
    assert made.json()["definition"]["format"] == "csv"
    ran = await client.post(f"{url}/run", timeout=60)
    assert ran.json()["rows"] == 1
    result = await client.get(f"{url}/result")
    assert (result.text, result.headers["Fleetgate-Version"]) == ("device,n\r\na,2\r\n", "1")
    assert result.headers["Content-Type"].startswith("text/csv")
    ran = await client.post(f"{url}/run", timeout=60)
    assert (await client.get(f"{url}/result", params={"number": 2})).text == "device,n\r\n"
    shown = (await client.get("/api/v1/datasets")).json()
    assert [(one["name"], one["problem"], one["watermark"]) for one in shown] == [("counts", None, ran.json()["until"])]
    assert [one["number"] for one in (await client.get(f"{url}/results")).json()] == [1, 2]
    for body, said in (
        ({"sql": ""}, "sql"),
        ({"sql": "x", "every": "soon"}, "not a duration"),
        ({"sql": "x", "folder": "out"}, "does not begin with /"),
        ({"sql": "x", "webhook": "ftp://x"}, "is not http"),
        ({"sql": "x", "webhook": "http://me:secret@x"}, "without user and password"),
        ({"sql": "x", "keep": 0}, "keep"),
        ({"sql": "x", "form": "csv"}, "form"),
    ):
        answer = await client.put("/api/v1/datasets/other", json=body)
        assert answer.status_code == 422
        assert said in answer.json()["detail"]
    assert (await client.put("/api/v1/datasets/..%2fx", json={"sql": "x"})).status_code in {404, 422}
    await client.put("/api/v1/datasets/wrong", json={"sql": "SELECT nope"})
    answer = await client.post("/api/v1/datasets/wrong/run", timeout=60)
    assert answer.status_code == 422
    assert "nope" in answer.json()["detail"]
    assert "nope" in (await client.get("/api/v1/datasets/wrong")).json()["problem"]
    stale = await client.put(url, json={"sql": "x"}, headers={"If-Match": '"7"'})
    assert stale.status_code == 409
    assert (await client.delete(url)).status_code == 200
    assert (await client.get(url)).status_code == 404


async def test_what_a_source_still_holds_is_not_settled(core):
    """Neither what the engine took and the store has not yet."""
    now = core.broker.engine.clock()
    assert now - 2 * SECOND < await core.settled() <= core.broker.engine.clock() - SECOND
    core.sources.extend([SimpleNamespace(held_since=None), SimpleNamespace(held_since=now - 60 * SECOND)])
    assert await core.settled() == now - 60 * SECOND - 1
    core.sources.clear()


async def test_since_when_a_source_holds_messages():
    """From their receipt until the pipeline has taken them."""

    class Refusing:
        taken = False

        def offer(self, batch) -> bool:
            return self.taken

        async def room(self) -> None:
            await asyncio.sleep(0)

    pipeline, times = Refusing(), iter((5, 6, 7))
    config = SourceConfig("mqtt://x", ("#",), ("devices/{device}/telemetry",))
    source = MqttSource(config, pipeline, Ledger(), clock=lambda: next(times))
    assert source.held_since is None
    sender = SimpleNamespace(_client=SimpleNamespace(ack=print))
    for _ in range(3):
        topic = SimpleNamespace(value="devices/a/telemetry")
        source._gather(sender, SimpleNamespace(topic=topic, qos=1, retain=False, payload=b"{}", properties=None, mid=1))
    assert source.held_since == 5
    await until(lambda: source._held)
    assert source.held_since == 5
    pipeline.taken = True
    await until(lambda: source.held_since is None)


async def test_a_clock_that_is_set_back_leaves_nothing_out(database, analyst, tmp_path, clock):
    """The next result begins where times of receipt began again, and reaches as far as they had come: once."""
    last_set, folder = [(T, 0)], tmp_path / "made"
    async with Datasets(database, analyst, folder, clock.settled, clock, last_set=lambda: last_set[0]) as made:
        await made.put("d", Definition(sql="one"))
        await made.run("d")
        watermark = made.get("d").watermark
        clock.now += HOUR
        last_set[0] = (clock.now - 3 * HOUR, clock.now)
        clock.now -= 2 * HOUR
        await made.run("d")
        assert analyst.windows[-1] == (T + 5 - 2 * HOUR - 1, T + 5 + HOUR)
        clock.now += HOUR
        await made.run("d")
        assert analyst.windows[-1] == (T + 5 - HOUR - SECOND, T + 5 - SECOND)
    clock.now -= 5 * HOUR
    async with Datasets(database, analyst, tmp_path / "made", clock.settled, clock) as made:
        began = clock.now
        clock.now += HOUR
        await made.run("d")
        assert analyst.windows[-1] == (began - 1, T + 5 - SECOND)
    assert watermark == T + 5 - SECOND
