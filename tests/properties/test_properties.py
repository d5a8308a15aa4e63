"""What holds for any input."""

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.names import is_name
from fleet.policy.rights import covers, matches
from ingester.batch import Batch
from ingester.bisection import find_failing
from ingester.decode import REASONS, DecodeError, Limits, readings, scan
from ingester.ledger import Ledger
from ingester.sqlite.rows import count_of, messages, pack, select_messages
from tests.fleet.policies import own_branch

NOW = 1_795_392_000_000_000
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)
objects = st.dictionaries(st.text(), trees, max_size=5)
payloads = (
    st.binary(max_size=200)
    | objects.map(lambda value: json.dumps(value).encode())
    | st.lists(objects, max_size=4).map(lambda value: json.dumps(value).encode())
    | st.text(alphabet='{}[]",:0123456789.eE+-ts ntrueNaIfy\\', max_size=60).map(str.encode)
)


@given(payloads)
@settings(max_examples=1000, deadline=None)
def test_decoding_gives_readings_or_its_own_error(payload: bytes):
    """Never anything else; and the hot path agrees with the one that looks."""
    times, ends, bad = scan([payload], [NOW], Limits())
    try:
        found = readings(payload, NOW, Limits())
    except DecodeError as error:
        assert [entry.reason for entry in bad] == [error.reason]
        assert error.reason in REASONS
        assert (times, ends) == ([NOW], [NOW])
    else:
        assert bad == []
        assert times == [min(reading.found_at for reading in found)]
        assert ends == [max(reading.found_at for reading in found)]
        for reading in found:
            assert all(not isinstance(value, dict | list) for value in reading.fields.values())


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 5), st.binary(max_size=10)), max_size=40
    ),
    st.lists(st.sampled_from([None, None, b"[]", b"[1]"]), min_size=40, max_size=40),
)
def test_journal_rows_hold_every_message_in_order(entries, decoded):
    """Packing and unpacking gives each device and stream its messages back, byte-exact, in the order they came."""
    batch = Batch()
    for entry in entries:
        batch.append(*entry)
        batch.times.append(entry[2])
        batch.ends.append(entry[2] + 1)
    batch.decoded = decoded[: len(batch)] if any(decoded[: len(batch)]) else []
    rows = list(pack(batch, 7))
    assert [row[0] for row in rows] == list(range(7, 7 + len(rows)))
    for row in rows:
        mine = [
            (received, payload, kept)
            for (device, stream, received, payload), kept in zip(entries, decoded, strict=False)
            if (device, stream) == row[1:3]
        ]
        assert list(messages(row if batch.decoded else (*row, None, None))) == mine
        assert row[3:6] == (
            min(received for received, *_ in mine),
            max(received for received, *_ in mine) + 1,
            max(received for received, *_ in mine),
        )
    assert len({row[1:3] for row in rows}) == len(rows)


levels = st.sampled_from(["a", "b", "+", "", "$x"])
filters = st.lists(levels, min_size=1, max_size=4).flatmap(
    lambda found: st.sampled_from(["/".join(found), "/".join([*found, "#"]), "#"])
)
topics = st.lists(st.sampled_from(["a", "b", "c", "", "$x"]), min_size=1, max_size=5).map("/".join)


@given(filters, filters, topics)
@settings(max_examples=2000)
def test_covering_means_matching_all_that_the_other_matches(have: str, want: str, topic: str):
    """No topic can slip through a subscription that was allowed."""
    if covers(have, want) and matches(want, topic):
        assert matches(have, topic)


@given(st.text(max_size=140), st.text(max_size=40))
@settings(max_examples=500)
def test_no_name_reaches_into_anothers_branch(name: str, topic: str):
    """Whatever a name is made of: if it is one, its rights end at its own branch."""
    if is_name(name):
        rights = own_branch(name)
        assert not rights.may_publish(f"devices/{name}x/{topic}")
        assert not rights.may_subscribe("devices/+/x")
        allowed = rights.may_publish(f"devices/{name}/{topic}")
        assert allowed == ("+" not in topic and "#" not in topic)


steps = st.sampled_from(["stored", "duplicate", "quarantined", "rejected", "dropped", "routed", "none"])


@given(st.lists(st.tuples(st.sampled_from("abcd"), steps), max_size=60))
def test_the_account_is_exact_whatever_happens(events):
    """The identity holds in total and per device; totals are the sums of the accounts."""
    ledger = Ledger(max_accounts=3)
    for device, step in events:
        ledger.received(device, 1, 1, 1)
        if step == "stored":
            ledger.stored({device: 1})
        elif step in {"quarantined", "rejected", "dropped"}:
            getattr(ledger, step)(device, "why")
        elif step != "none":
            getattr(ledger, step)(device)
    for end in ("received", "stored", "duplicate", "quarantined", "rejected", "dropped", "routed", "in_flight"):
        assert getattr(ledger.totals, end) == sum(getattr(a, end) for a in ledger.accounts.values())
    assert ledger.totals.in_flight == sum(step == "none" for _, step in events)


@given(
    st.lists(
        st.tuples(st.binary(max_size=6), st.sampled_from([None, b"[]", b"[1]"]), st.integers(0, 65_535)),
        min_size=1,
        max_size=12,
    ),
    st.data(),
)
def test_a_row_is_parted_without_loss(entries, data):
    """Some messages of a row and the others are all of it: times, payloads, readings, packet ids, as they were."""
    batch = Batch()
    for at, (payload, kept, number) in enumerate(entries):
        batch.append("d", "s", at * 1000, payload)
        batch.decoded.append(kept)
        batch.packet_ids.append(number.to_bytes(2))
        batch.times.append(0)
        batch.ends.append(1)
    batch.connections = [7] * len(entries)
    (row,) = pack(batch, 1)
    picked = sorted(data.draw(st.sets(st.integers(0, len(entries) - 1), min_size=1)))
    part = select_messages(row, picked)
    whole = list(messages(row))
    assert list(messages(part)) == [whole[at] for at in picked]
    assert count_of(part) == len(picked)
    assert part[10] == b"".join(row[10][2 * at : 2 * at + 2] for at in picked)
    assert (part[:5], part[9], part[5]) == (row[:5], 7, picked[-1] * 1000)


@given(st.sets(st.integers(0, 299)), st.sets(st.integers(0, 299), min_size=2), st.integers(0, 300))
def test_bisection_blames_only_what_fails_by_itself(bad, company, most):
    """Whatever fails alone is found, at most so many in order; what fails in company only never is."""
    attempts = []

    async def fails(start: int, stop: int) -> bool:
        attempts.append((start, stop))
        here = set(range(start, stop))
        return bool(bad & here) or company <= here

    found = asyncio.run(find_failing(300, fails, most))
    assert found == sorted(bad)[:most]
    assert len(attempts) <= 2 * (len(found) + 2) * 10
