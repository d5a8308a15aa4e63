"""What came last by the topics of sources: a bounded memory, on disk with the messages it is about."""

from ingester.batch import Batch
from ingester.seen import Seen, SeenTopics, content_digest, topic_digest
from ingester.sqlite.seen import KeptSeenTopics
from ingester.sqlite.store import SqliteStore

NOW = 1_795_391_000_000_000


def keys(*names: str) -> list[bytes]:
    return [topic_digest(name) for name in names]


def take(seen: SeenTopics, source: str, again=(), live=()) -> list[Seen]:
    """What the commit of messages by these topics, with these contents, writes."""
    found = {topic_digest(topic): content_digest(content) for topic, content in again}
    others = {topic_digest(topic): content_digest(content) for topic, content in live}
    written = seen.to_write(source, found, others)
    seen.record(source, found, others, written)
    return written


def test_the_last_content_of_a_topic():
    """Of each source by itself; nothing is known of messages that were not taken."""
    seen = SeenTopics()
    assert seen.to_write("one", {b"t": b"c"}, {})
    assert seen.last("one", b"t") is None
    written = take(seen, "one", again=[("a", b"1")], live=[("b", b"2")])
    assert {entry.topic for entry in written} == set(keys("a", "b"))
    assert seen.last("one", topic_digest("a")) == content_digest(b"1")
    assert seen.last("two", topic_digest("a")) is None
    take(seen, "one", live=[("a", b"3")])
    assert seen.last("one", topic_digest("a")) == content_digest(b"3")
    assert seen.changes() == []


def test_what_is_retained_is_written_at_once():
    """With its own commit; of the rest some with each commit, and what is left at the end."""
    seen = SeenTopics()
    live = [(f"l{number}", b"x") for number in range(120)]
    written = take(seen, "s", again=[(f"r{number}", b"x") for number in range(200)], live=live)
    assert len(written) == 250
    assert len(seen.changes()) == 70
    assert len(take(seen, "s", again=[("l119", b"y")])) == 51
    assert len(take(seen, "s")) == 19
    assert (take(seen, "s"), seen.changes()) == ([], [])
    late = SeenTopics()
    late.record("s", {b"t": b"2"}, {}, [Seen("s", b"t", b"1")])
    assert late.changes() == [Seen("s", b"t", b"2")]


def test_the_memory_is_bounded():
    """The topic that was noted longest ago is forgotten, on disk too."""
    seen = SeenTopics(most=3)
    take(seen, "s", again=[(name, b"x") for name in "abc"])
    take(seen, "s", again=[("a", b"y"), ("d", b"x")])
    assert seen.last("s", topic_digest("b")) is None
    assert seen.last("s", topic_digest("a")) == content_digest(b"y")
    assert seen.changes() == [Seen("s", topic_digest("b"), None)]
    assert take(seen, "s", again=[("b", b"z")])[0] == Seen("s", topic_digest("b"), content_digest(b"z"))


async def test_it_outlives_the_process(tmp_path):
    """What was written with messages is there after a kill, the rest after an orderly end."""
    async with SqliteStore(tmp_path) as journal:
        kept = KeptSeenTopics(SeenTopics(most=2), journal)
        async with kept as seen:
            for name in ("a", "b", "c"):
                batch = Batch()
                batch.append("d", "s", NOW, b"{}")
                batch.times, batch.ends, batch.connections, batch.packet_ids = [NOW], [NOW], [0], [b"\0\0"]
                batch.seen = take(seen, "s", again=[(name, b"x")])
                await journal.write(batch, [])
            killed = SeenTopics()
            async with KeptSeenTopics(killed, journal):
                assert [killed.last("s", key) for key in keys("a", "b", "c")] == [content_digest(b"x")] * 3
        after = SeenTopics()
        async with KeptSeenTopics(after, journal):
            assert [after.last("s", key) for key in keys("a", "b", "c")] == [None, *[content_digest(b"x")] * 2]
