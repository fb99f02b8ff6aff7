"""Messages of calls within one memory budget; a tick is one millisecond here."""

import asyncio

import pytest

from pyspark_theflash.base.errors import CodecError, ServiceUnavailableError
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.replication.pump import intake
from pyspark_theflash.replication.pump.intake import (
    BESIDE_BYTES,
    LARGE_BYTES,
    SMALL_MESSAGES_BYTES,
    Intake,
)

MESSAGE_BYTES = 8 * LARGE_BYTES


class Call:
    """A call whose message the test sends."""

    def __init__(self, peer="stranger"):
        self._peer = peer
        self.arrived = asyncio.get_running_loop().create_future()

    def peer(self):
        return self._peer

    async def read(self):
        return await self.arrived


def running(test):
    """Run a test in an event loop."""

    def run():
        async def within():
            await asyncio.wait_for(test(), 60)

        asyncio.run(within())

    run.__name__ = test.__name__
    return run


def received(message, peer="stranger"):
    call = Call(peer)
    call.arrived.set_result(message)
    return call


def receiving(place, count):
    calls = [Call() for _ in range(count)]
    return calls, [asyncio.create_task(place.receive(call)) for call in calls]


@running
async def test_large_messages_leave_memory_for_others():
    place, large = Intake(MESSAGE_BYTES), bytes(MESSAGE_BYTES)
    for _ in range((MESSAGE_BYTES + BESIDE_BYTES) // MESSAGE_BYTES):
        assert await place.receive(received(large)) == large
    with pytest.raises(ServiceUnavailableError, match="bytes of messages like this one"):
        await place.receive(received(large))
    small = bytes(LARGE_BYTES)
    for _ in range(SMALL_MESSAGES_BYTES // LARGE_BYTES):
        await place.receive(received(small))
    with pytest.raises(ServiceUnavailableError, match="bytes of messages like this one"):
        await place.receive(received(small))
    for freed in (small, large):
        place.release(len(freed))
        assert await place.receive(received(freed)) == freed


@running
async def test_one_message_of_the_largest_size_at_a_time():
    """While it arrives and while it is in memory, however many callers send one."""
    most = 2 * BESIDE_BYTES
    place = Intake(most, tick_ms=1)
    calls, tasks = receiving(place, 6)
    while sum(task.done() for task in tasks) < len(tasks) - 1:
        await asyncio.sleep(0)
    (first,) = [n for n, task in enumerate(tasks) if not task.done()]
    large = bytes(most)
    with pytest.raises(ServiceUnavailableError, match="bytes of messages like this one"):
        await place.receive(received(large))
    calls[first].arrived.set_result(large)
    assert await tasks[first] is large
    with pytest.raises(ServiceUnavailableError, match="is arriving, or in memory"):
        await place.receive(Call())
    assert await place.receive(received(b"commit")) == b"commit"
    place.release(most)
    assert await place.receive(received(large)) is large


@running
async def test_messages_that_do_not_arrive():
    place = Intake(MESSAGE_BYTES, tick_ms=1)
    _, tasks = receiving(place, 300)
    # More than can be requested at the same time; this one gets its turn.
    assert await place.receive(received(b"commit")) == b"commit"
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    reasons = {str(answer).partition(": ")[2] for answer in answers}
    assert reasons == {
        "another large message is arriving, or in memory; try again",
        "the message did not arrive in time; try again",
    }
    assert await place.receive(received(b"commit")) == b"commit"


@running
async def test_a_slow_message_arrives_after_all():
    place = Intake(MESSAGE_BYTES, tick_ms=1)
    calls, tasks = receiving(place, 2)
    await asyncio.sleep(0.02)
    calls[1].arrived.set_result(b"slow")
    assert await tasks[1] == b"slow"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@running
async def test_a_call_that_ends():
    place = Intake(MESSAGE_BYTES)
    with pytest.raises(CodecError, match="there is no message"):
        await place.receive(received(grpc.aio.EOF))
    _, (task,) = receiving(place, 1)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not place._arrivals


@running
async def test_calls_that_wait_are_bounded():
    place = Intake(MESSAGE_BYTES)
    count = intake._RECENT_MAX + intake._WAITING_MAX
    _, tasks = receiving(place, count)
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnavailableError, match="calls wait already"):
        await place.receive(received(b""))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@running
async def test_calls_without_messages_do_not_delay_others_for_long():
    """A connection that has sent a message gets every second turn."""
    place = Intake(MESSAGE_BYTES)
    await place.receive(received(b"commit", "tidb"))
    _, held = receiving(place, intake._RECENT_MAX)
    _, waiting = receiving(place, 100)
    await asyncio.sleep(0)
    proven = [asyncio.create_task(place.receive(received(b"commit", "tidb"))) for _ in range(2)]
    await asyncio.sleep(0)
    for task in held[:3]:
        task.cancel()
    await asyncio.gather(*held[:3], return_exceptions=True)
    assert await asyncio.gather(*proven) == [b"commit"] * 2
    for task in (*held, *waiting):
        task.cancel()
    await asyncio.gather(*held, *waiting, return_exceptions=True)
    assert place._turns._free == intake._RECENT_MAX


@running
async def test_messages_that_arrive_are_few():
    """However large they are: gRPC buffers them."""
    place = Intake(MESSAGE_BYTES)
    calls, tasks = receiving(place, 100)
    await asyncio.sleep(0)
    assert len(place._arrivals) == intake._RECENT_MAX == 2
    for call in calls:
        call.arrived.set_result(b"commit")
    assert await asyncio.gather(*tasks) == [b"commit"] * 100
    assert not place._arrivals
    assert place._turns._free == intake._RECENT_MAX
