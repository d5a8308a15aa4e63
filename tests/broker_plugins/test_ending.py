"""The end of a connection waits."""

import asyncio

from broker_plugins.ending import EndingReader


async def test_disconnect_and_end_wait_for_what_was_acknowledged():
    """What comes before is read at once; the DISCONNECT and the end only when everything was handed on."""
    reader, done = EndingReader(), asyncio.Event()
    reader.handed_on = done.wait
    reader.feed_data(b"abc\xe0\x00")
    reader.feed_eof()
    assert await reader.readexactly(3) == b"abc"
    last = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    assert not last.done()
    done.set()
    assert await last == b"\xe0\x00"
    assert reader.at_eof()


async def test_payload_that_looks_alike_is_not_lost():
    """More data behind it shows that it was none: order and bytes are kept."""
    reader, done = EndingReader(), asyncio.Event()
    reader.handed_on = done.wait
    reader.feed_data(b"x\xe0\x00")
    reader.feed_data(b"y")
    assert await reader.readexactly(4) == b"x\xe0\x00y"


async def test_before_the_broker_knows_it_nothing_waits():
    """Without anything to wait for, a stream is a stream."""
    reader = EndingReader()
    reader.feed_data(b"\xe0\x00")
    reader.feed_eof()
    assert await reader.read() == b"\xe0\x00"
