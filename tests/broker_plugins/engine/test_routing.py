"""Tries, router, retained messages, flapping, wills and the wheel: what needs no socket."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_plugins.engine.errors import ProtocolError
from broker_plugins.engine.flapping import Flapping
from broker_plugins.engine.message import Delivery, Message, Stage
from broker_plugins.engine.packets import Subscription
from broker_plugins.engine.retained import Retained
from broker_plugins.engine.router import Router, split_share
from broker_plugins.engine.schedule import Schedule
from broker_plugins.engine.session import Granted, QueueLimits, Session
from broker_plugins.engine.topics import check_levels, expires_at, seconds_left, why_invalid
from broker_plugins.engine.trie import FilterTrie, TopicTrie
from broker_plugins.engine.wheel import Wheel, at_least, ticks
from broker_plugins.engine.wills import Wills
from fleet.policy.rights import Rights, matches

levels = st.sampled_from(["a", "b", "", "$x"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join)
filters = st.tuples(
    st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=1, max_size=4).map("/".join), st.booleans()
).map(lambda made: made[0] + "/#" if made[1] else made[0])


@given(st.lists(filters, max_size=30), st.lists(filters, max_size=10), topics)
def test_the_trie_matches_as_the_rule_does(put: list[str], removed: list[str], topic: str):
    """Filter by filter [4.7]; what was removed matches no more, and leaves nothing behind."""
    trie: FilterTrie[str, int] = FilterTrie()
    for number, topic_filter in enumerate(put):
        trie.put(topic_filter, topic_filter, number)
    for topic_filter in removed:
        trie.remove(topic_filter, topic_filter)
    left = set(put) - set(removed)
    assert {key for key, _ in trie.match(topic)} == {found for found in left if matches(found, topic)}
    assert len(trie) == len(left)
    for topic_filter in left:
        trie.remove(topic_filter, topic_filter)
    assert not trie._root.children


@given(st.lists(topics, max_size=30), st.lists(topics, max_size=10), filters)
def test_topics_are_found_as_the_rule_says(put: list[str], removed: list[str], topic_filter: str):
    """The mirror image."""
    trie: TopicTrie[str] = TopicTrie()
    for topic in put:
        trie.put(topic, topic)
    for topic in removed:
        trie.remove(topic)
    left = set(put) - set(removed)
    assert sorted(trie.match(topic_filter)) == sorted(found for found in left if matches(topic_filter, found))
    assert len(trie) == len(left)
    for topic in left:
        assert trie.remove(topic) == topic
    assert not trie._root.children


def test_matching_costs_what_the_levels_cost():
    """A hundred thousand filters in the way of one topic: as many nodes are looked at as without them."""
    trie: FilterTrie[int, int] = FilterTrie()
    for number in range(100_000):
        trie.put(f"devices/d{number}/commands/#", number, number)
    trie.put("devices/+/commands/x", -1, -1)
    started = time.perf_counter()
    assert sorted(key for key, _ in trie.match("devices/d77/commands/x")) == [-1, 77]
    assert time.perf_counter() - started < 0.05  # linear would be a hundred times that
    assert trie.get("devices/d5/commands/#", 5) == 5
    assert trie.get("devices/d5/commands/#", 6) is None
    assert trie.get("nowhere/x", 6) is None
    trie.remove("nowhere/x", 6)
    trie.remove("devices/d5/commands/#", 6)
    assert len(trie) == 100_001


def test_deep_topics_are_no_recursion():
    """65,535 levels are counted, not walked by the stack."""
    trie: FilterTrie[int, int] = FilterTrie()
    trie.put("/" * 65_535, 1, 1)
    assert list(trie.match("/" * 65_535)) == [(1, 1)]
    trie.remove("/" * 65_535, 1)
    with pytest.raises(ProtocolError):
        check_levels("/" * 200, 128)
    assert why_invalid("a/" * 200, 128)


@pytest.mark.parametrize(
    ("topic_filter", "found"),
    [
        ("a/b", (None, "a/b")),
        ("$share/g/a/b", ("g", "a/b")),
        ("$share/g", (None, "$share/g")),
        ("$share/g/", ("g", "")),
        ("$shared/g/a", (None, "$shared/g/a")),
    ],
)
def test_shared_filters(topic_filter: str, found: tuple):
    """[4.8.2]."""
    assert split_share(topic_filter) == found


def session(client_id: str = "a", expiry: int = 0, limits: QueueLimits | None = None) -> Session:
    return Session(client_id, f"device:{client_id}", limits or QueueLimits(), expiry)


def granted(topic_filter: str, qos: int = 1, **more) -> Granted:
    return Granted(Subscription(topic_filter, qos, **more))


class Outlet:
    """A connection that writes down what it sends."""

    def __init__(self) -> None:
        self.sent: list = []
        self.congested = False
        self.too_large = False

    def deliver(self, delivery: Delivery, *, again: bool) -> bool:
        self.sent.append((delivery.message.payload, delivery.packet_id, again))
        return not self.too_large

    def release(self, packet_id: int) -> None:
        self.sent.append(packet_id)


def test_a_group_without_anybody_who_may_receive():
    """Nobody gets it; a member without connection gets it when it is all there is and its session is kept."""
    allowed = set()
    router = Router(lambda found: Rights((), ("x",)) if found.client_id in allowed else None)
    one, two = session("one", 100), session("two")
    for member in (one, two):
        router.subscribe(member, granted("$share/g/x"))
    assert list(router.route(Message("x", b""))) == []
    allowed |= {"one", "two"}
    assert [found for found, _ in router.route(Message("x", b""))] == [one]
    two.outlet = Outlet()
    assert [found for found, _ in router.route(Message("x", b""))] == [two]
    assert len(router) == 2
    assert router.wanted("x")
    router.forget(one)
    router.forget(two)
    assert len(router) == 0
    assert not router.wanted("x")
    assert not router.unsubscribe(one, "x")


def test_what_leaves_the_queue():
    """Old and expired ones are dropped; a congested client is waited for; what is too large is dropped."""
    limits = QueueLimits(messages=10, size_bytes=10_000, age_us=100)
    found = session(expiry=100, limits=limits)
    found.outlet = outlet = Outlet()
    outlet.congested = True
    for number, expires in ((1, None), (2, 5), (3, None)):
        assert found.offer(Delivery(Message("t", b"%d" % number, 1, expires=expires), 1), now=number * 50) is None
    assert list(found.pump(now=60)) == []
    assert found.offer(Delivery(Message("t", b"0"), 0), now=60) == "congested"
    outlet.congested = False
    assert [reason for _, reason in found.pump(now=160)] == ["expired", "expired", None]
    assert outlet.sent == [(b"3", 1, False)]
    outlet.too_large = True
    found.offer(Delivery(Message("t", b"4", 1), 1), now=160)
    assert [reason for _, reason in found.pump(now=160)] == ["too_large"]
    assert found.offer(Delivery(Message("t", b"0"), 0), now=60) == "too_large"
    assert found.queue_bytes == 0


def test_packet_ids_are_used_in_turn_and_never_twice_at_a_time():
    """From 1 to 65,535 and around again, past those that are on their way."""
    found = session()
    found.outlet = Outlet()
    found.inflight[1] = Delivery(Message("t", b"", 1), 1, packet_id=1, stage=Stage.SENT)
    found._next_id = 65_534
    for _ in range(2):
        found.offer(Delivery(Message("t", b"", 1), 1), 0)
    assert [delivery.packet_id for delivery, _ in found.pump(0)] == [65_535, 2]


def test_a_session_without_connection():
    """QoS 0 is not kept; a clean one keeps nothing; resuming nothing is nothing."""
    found = session()
    assert found.offer(Delivery(Message("t", b""), 0), 0) == "offline"
    assert found.offer(Delivery(Message("t", b"", 1), 1), 0) == "offline"
    found.resume()
    assert found.stored_by_client(5) is None


def test_messages_that_keep_their_retain_flag_have_their_place_in_the_queue():
    """A subscription that asks for RETAIN as published makes no message one that may always wait."""
    session = Session("a", "device:a", QueueLimits(2), expiry=60)
    kept = [Delivery(Message("t", b"1", 1, True), 1, retain=True) for _ in range(4)]
    assert [session.offer(delivery, 0) for delivery in kept] == [None, None, "queue_full", "queue_full"]
    assert session.offer(kept[2], 0, always=True) is None


def test_retained_messages_have_bounds():
    """By count and by bytes; replacing one counts its difference."""
    retained = Retained(2, 400)
    assert retained.keep(Message("a", b"x" * 100))
    assert retained.keep(Message("b", b"x"))
    assert not retained.keep(Message("c", b"x"))
    assert not retained.keep(Message("b", b"x" * 300))
    assert retained.keep(Message("a", b"x" * 120))
    assert retained.clear("b").payload == b"x"
    assert retained.clear("b") is None
    assert retained.size_bytes == Message("a", b"x" * 120).size_bytes
    assert retained.keep(Message("c", b"x", expires=5))
    assert retained.expired(5) == ["c"]
    assert [message.topic for message in retained.match("#", 4)] in (["a", "c"], ["c", "a"])
    assert [message.topic for message in retained.match("#", 5)] == ["a"]
    assert len(retained) == 2


def test_a_device_retains_so_much():
    """By count and by bytes, in place of its own messages or of others'; applications and other devices are not."""
    retained = Retained(100, 10_000, 2, 400)

    def publish(topic: str, size: int, owner: str = "d", *, device: bool = True) -> bool:
        return retained.keep(Message(topic, b"x" * size, owner=owner, device=device))

    assert publish("a", 10)
    assert publish("b", 10)
    assert not publish("c", 10)
    assert publish("b", 20)
    assert not publish("b", 300)
    assert publish("c", 10, "application", device=False)
    assert not publish("c", 10)
    assert publish("d", 10, "other")
    assert retained.clear("a") is not None
    assert publish("c", 10)
    assert all(publish(f"s{at}", 100, "application", device=False) for at in range(10))
    assert retained.of("d") == ["b", "c"]


def test_flapping():
    """So many in a minute, then none for a while; what is long ago is forgotten."""
    flapping = Flapping(2, 10)
    assert [flapping.connects("a", now) for now in (0, 1, 2, 3)] == [True, True, False, False]
    assert flapping.connects("b", 3)
    assert flapping.connects("a", 12.5)
    assert [flapping.connects("b", now) for now in (50, 64, 120)] == [True, True, True]
    flapping.forget_old(500)
    assert not flapping._connects
    assert not flapping._banned
    assert all(Flapping(0, 1).connects("a", 0) for _ in range(100))


def test_wills_wait():
    """In order of time; one that was cancelled or taken is not due."""
    wills = Wills()
    for client_id, due in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        wills.put(client_id, f"device:{client_id}", Message(client_id, b""), due)
    assert wills.take("c") is not None
    assert [message.topic for _, message in wills.due(2.5)] == ["b"]
    assert wills.take("a")[0] == "device:a"
    assert wills.take("a") is None
    assert wills.due(10.0) == []


def test_a_schedule_does_not_grow_by_what_is_moved():
    """Only the last time of a key counts; what was moved or dropped is cleared out."""
    schedule = Schedule()
    for when in range(10_000):
        schedule.put("a", when)
        schedule.put(f"k{when}", when)
        schedule.drop(f"k{when}")
    schedule.put("b", 5)
    assert len(schedule) == 2
    assert len(schedule._heap) < 1100
    assert list(schedule.due(4)) == []
    assert list(schedule.due(10_000)) == ["b", "a"]
    assert list(schedule.due(99_999)) == []


def test_the_wheel_turns():
    """Things are looked at when they are due, further than one turn away too, and again when they say so."""

    class Item:
        def __init__(self, again: int) -> None:
            self.again = again
            self.looked: list[int] = []

        def tick(self, now: int) -> int:
            self.looked.append(now)
            return self.again

    wheel = Wheel()
    once, often, far = Item(0), Item(3), Item(0)
    for item, due in ((once, 1), (often, 2), (far, 1500)):
        wheel.add(item, due)
    for _ in range(2000):
        wheel.turn()
    assert once.looked == [1]
    assert often.looked[:3] == [2, 5, 8]
    assert far.looked == [1500]
    assert ticks(0) == 1
    assert ticks(1.0) == 4
    assert [at_least(seconds) for seconds in (0, 0.25, 0.26, 1.5)] == [0, 2, 3, 7]


def test_message_expiry():
    """Taken out of the properties, and turned into a time."""
    properties = {"message_expiry_interval": 2, "content_type": "t"}
    assert expires_at(properties, 1_000_000) == 3_000_000
    assert expires_at(properties, 1_000_000) is None
    assert properties == {"content_type": "t"}


def test_what_is_left_of_a_message_is_rounded_up():
    """Nobody is told that a message is over while it is not."""
    assert [seconds_left(2_000_000, now) for now in (0, 1, 999_999, 1_000_000, 1_999_999)] == [2, 2, 2, 1, 1]
    assert [seconds_left(2_000_000, now) for now in (2_000_000, 9_000_000)] == [0, 0]


def test_a_message_that_expires_as_it_comes():
    """Who takes it at once gets it; it never waits."""
    found = session(expiry=100)
    found.outlet, found.window = Outlet(), 1
    for _ in range(2):
        found.offer(Delivery(Message("t", b"x", 1, expires=5), 1), 5)
    assert [reason for _, reason in found.pump(5)] == [None]
    found.inflight.clear()
    assert [reason for _, reason in found.pump(6)] == ["expired"]


def test_a_client_that_takes_less_than_it_did():
    """What was on its way and is too large now is dropped; it would keep its place for ever."""
    found = session(expiry=100)
    assert found.resume() == []
    found.outlet, found.window = Outlet(), 5
    for size in (1, 100):
        found.offer(Delivery(Message("t", b"x" * size, 1), 1), 0)
    list(found.pump(0))
    found.inflight[1].stage = Stage.RELEASED
    found.outlet = Outlet()
    found.outlet.too_large = True
    assert [len(one.message.payload) for one in found.resume()] == [100]
    assert [len(one.message.payload) for one in found.inflight.values()] == [1]


def test_what_a_client_may_be_reading_stays():
    """A right that is gone takes what waits; what was sent over a connection that is there is the client's."""
    found = session(expiry=100)
    found.outlet, found.window = Outlet(), 1
    for topic in ("a", "a", "b"):
        found.offer(Delivery(Message(topic, b"x"), 1), 0)
    list(found.pump(0))
    assert [one.message.topic for one in found.withhold(lambda topic: topic == "b")] == ["a"]
    assert ([one.message.topic for _, one in found.queue], len(found.inflight)) == (["b"], 1)
    found.outlet = None
    assert len(found.withhold(lambda topic: topic == "b")) == 1
    assert not found.inflight


def test_what_is_kept_of_an_identity():
    """Its retained messages, whoever had the topic before; its wills; that it connects again and again."""
    retained = Retained(9, 1000)
    for topic, owner in (("a/1", "device:a"), ("a/2", "device:a"), ("a/3", "device:b"), ("x", "device:a")):
        assert retained.keep(Message(topic, b"1", owner=owner))
    assert retained.keep(Message("a/2", b"2", owner="device:b"))
    assert (retained.of("device:a"), retained.of("device:b"), retained.of("nobody")) == (
        ["a/1", "x"],
        ["a/2", "a/3"],
        [],
    )
    assert sorted(retained.below("a/#")) == ["a/1", "a/2", "a/3"]
    for topic in ("a/1", "x", "x"):
        retained.clear(topic)
    assert (retained.of("device:a"), len(retained)) == ([], 2)
    wills = Wills()
    for client_id, owner in (("a", "device:a"), ("b/1", "application:b"), ("b/2", "application:b")):
        wills.put(client_id, owner, Message(client_id, b""), 1.0)
    wills.drop("application:b")
    assert [owner for owner, _ in wills.due(2.0)] == ["device:a"]
    flapping = Flapping(1, 60)
    assert [flapping.connects("a", now) for now in (0, 1)] == [True, False]
    flapping.forget("a")
    assert flapping.connects("a", 2)
