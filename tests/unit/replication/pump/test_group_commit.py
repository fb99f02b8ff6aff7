import asyncio
import threading
from contextlib import contextmanager

import pytest

from pyspark_theflash.base.errors import EngineError, InternalError, SpoolFullError, StoreFullError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.replication.pump import group_commit
from pyspark_theflash.replication.pump.group_commit import GroupCommit
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.testing.faulty_fs import Failure, FaultyFileSystem
from tests.support import binlog_writer

MESSAGES = [binlog_writer.commit(n, n + 1) for n in range(1, 9)]
FRAME = len(binlog_writer.frame(MESSAGES[0]))
LONG_MS = 60_000
DEADLINE_S = 30


@contextmanager
def spooling(folder, failure=Failure.IO_ERROR, **limits):
    """A spool, and its file system, which counts calls."""
    fs = FaultyFileSystem(failure)
    spool = Spool(folder / "spool", fs, **limits)
    try:
        yield spool, fs
    finally:
        fs.heal()
        spool.close()


def run(spool, body):
    """Run `body` with a group commit in a new event loop; return its result."""

    async def whole():
        group = GroupCommit(spool)
        try:
            return await asyncio.wait_for(body(group), DEADLINE_S)
        finally:
            group.close()

    return asyncio.run(whole())


def content(spool):
    return [frame.payload for frame in spool.source().frames()]


class Held:
    """Blocks the spool before its first sync, until it is released."""

    def __init__(self):
        self._reached, self._go = threading.Event(), threading.Event()

    def __call__(self):
        self._reached.set()
        assert self._go.wait(DEADLINE_S)

    async def reached(self):
        await asyncio.to_thread(self._reached.wait, DEADLINE_S)

    def let_go(self):
        self._go.set()


def begun(group, messages):
    return [asyncio.ensure_future(group.append(message)) for message in messages]


def test_callers_that_come_during_a_sync_share_the_next(tmp_path):
    with spooling(tmp_path) as (spool, fs):
        before, held = fs.calls.count("sync"), Held()

        async def body(group):
            first = begun(group, MESSAGES[:1])
            await held.reached()
            others = begun(group, MESSAGES[1:])
            await asyncio.sleep(0)
            assert not any(call.done() for call in [*first, *others])
            held.let_go()
            await asyncio.gather(*first, *others)

        with armed("spool.sync", held):
            run(spool, body)
        assert fs.calls.count("sync") - before == 2
        assert content(spool) == MESSAGES


def test_a_lone_caller_waits_for_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(group_commit, "GATHER_MS", LONG_MS)
    with spooling(tmp_path) as (spool, fs):
        before = fs.calls.count("sync")

        async def body(group):
            for number, message in enumerate(MESSAGES, 1):
                await group.append(message)
                assert content(spool) == MESSAGES[:number]

        run(spool, body)
        assert fs.calls.count("sync") - before == len(MESSAGES)


def test_callers_that_were_answered_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(group_commit, "GATHER_MS", 50)
    with spooling(tmp_path) as (spool, fs):

        async def caller(group, number):
            for round_ in range(20):
                # They come back one after the other, some late.
                await asyncio.sleep(0.001 * number)
                await group.append(binlog_writer.commit(100 * number + round_ + 1, 9000))

        async def body(group):
            await asyncio.gather(*(caller(group, number) for number in range(4)))

        before = fs.calls.count("sync")
        run(spool, body)
        # 80 payloads; as long as they find each other, four with each sync.
        assert fs.calls.count("sync") - before < 40
        assert len(content(spool)) == 80


def test_callers_that_stay_away_are_not_waited_for_long(tmp_path):
    with spooling(tmp_path) as (spool, _):

        async def body(group):
            await asyncio.gather(*begun(group, MESSAGES[:6]))
            await group.append(MESSAGES[6])
            await group.append(MESSAGES[7])

        run(spool, body)
        assert content(spool) == MESSAGES


def test_cancelled_before_it_is_written(tmp_path):
    with spooling(tmp_path) as (spool, _):
        held = Held()

        async def body(group):
            first = begun(group, MESSAGES[:1])
            await held.reached()
            others = begun(group, MESSAGES[1:4])
            await asyncio.sleep(0)
            others[1].cancel()
            first[0].cancel()
            held.let_go()
            await asyncio.gather(others[0], others[2])
            assert others[1].cancelled()

        with armed("spool.sync", held):
            run(spool, body)
        # The first was being written.
        assert content(spool) == [MESSAGES[0], MESSAGES[1], MESSAGES[3]]


def test_all_of_a_group_cancelled(tmp_path):
    with spooling(tmp_path) as (spool, _):
        held = Held()

        async def body(group):
            first = begun(group, MESSAGES[:1])
            await held.reached()
            (other,) = begun(group, MESSAGES[1:2])
            await asyncio.sleep(0)
            other.cancel()
            held.let_go()
            await first[0]
            await group.append(MESSAGES[2])

        with armed("spool.sync", held):
            run(spool, body)
        assert content(spool) == [MESSAGES[0], MESSAGES[2]]


async def outcomes(group, calls):
    """Return the class of each call's error, None for success."""
    results = await asyncio.gather(*(group.append(*call) for call in calls), return_exceptions=True)
    return [None if result is None else type(result) for result in results]


def test_room_for_some_of_a_group(tmp_path):
    with spooling(tmp_path, max_bytes=4 * FRAME) as (spool, _):
        held = Held()

        async def body(group):
            first = begun(group, MESSAGES[:1])
            await held.reached()
            calls = [(MESSAGES[1], 0), (MESSAGES[2], 2 * FRAME), (MESSAGES[3], FRAME)]
            rest = asyncio.ensure_future(outcomes(group, calls))
            await asyncio.sleep(0)
            held.let_go()
            await first[0]
            return await rest

        with armed("spool.sync", held):
            assert run(spool, body) == [None, SpoolFullError, None]
        assert content(spool) == [MESSAGES[0], MESSAGES[1], MESSAGES[3]]


@pytest.mark.parametrize(
    ("failure", "expected"), [(Failure.FULL, StoreFullError), (Failure.IO_ERROR, EngineError)]
)
def test_a_disk_that_fails_is_told_to_all(tmp_path, failure, expected):
    with spooling(tmp_path, failure) as (spool, fs):

        async def body(group):
            await group.append(MESSAGES[0])
            fs.fail_from_now()
            return await outcomes(group, [(message,) for message in MESSAGES[1:4]])

        assert run(spool, body) == [expected] * 3
        assert content(spool) == MESSAGES[:1]


def test_an_error_that_is_not_ours_is_told_to_all_now_and_later(tmp_path):
    def fail():
        raise ZeroDivisionError

    with spooling(tmp_path) as (spool, _):

        async def body(group):
            with armed("spool.sync", fail):
                failures = await outcomes(group, [(message,) for message in MESSAGES[:1]])
            return failures + await outcomes(group, [(message,) for message in MESSAGES[1:3]])

        assert run(spool, body) == [InternalError, EngineError, EngineError]
        assert content(spool) == []
