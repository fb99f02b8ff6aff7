"""Orders of events in which other clients of TiKV's change feed have lost or invented changes."""

import pytest

from pyspark_theflash.base.errors import ChangeFeedError
from pyspark_theflash.base.types import TimeStamp, from_physical_ms
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.replication.cdc.matcher import ABANDONED_MS, CommittedRows, Matcher
from pyspark_theflash.replication.cdc.spans import SpanPiece
from pyspark_theflash.replication.cdc.wire import (
    COMMIT,
    COMMITTED,
    DELETE,
    INITIALIZED,
    PREWRITE,
    PUT,
    ROLLBACK,
)
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2

Row = cdcpb_pb2.Event.Row
KEY = b"t\x80\0\0\0\0\0\0\x05_r\x80\0\0\0\0\0\0\x01"
START = 100
Change = tuple[bytes, int, bytes | None]


class Feed:
    """A request from `START` on, for the keys of one table."""

    def __init__(self, *spans: tuple[bytes, bytes, int]) -> None:
        ranges = [
            (RawKeyRange(RawKey(low), RawKey(high)), TimeStamp(ts))
            for low, high, ts in spans or [(b"t", b"u", START)]
        ]
        pieces = [SpanPiece(keys, keys, ts) for keys, ts in ranges]
        self.matcher = Matcher(pieces, min(ts for _, ts in ranges))
        self.committed = CommittedRows()

    def send(self, *rows: Row) -> None:
        self.matcher.add(rows, self.committed)

    def resolve(self, ts: int) -> bool:
        return self.matcher.advance(TimeStamp(ts), self.committed)

    @property
    def changes(self) -> list[Change]:
        rows = self.committed
        columns = (rows.keys, rows.commit_ts, rows.values, rows.ops)
        changes = [(k, ts, v if op == PUT else None) for k, ts, v, op in zip(*columns, strict=True)]
        for log in rows.logs:
            for part in log.parts():
                changes += [(k, log.commit_ts, v if op == PUT else None) for k, v, op in part]
        return changes


def prewrite(start_ts: int, value: bytes = b"", *, key: bytes = KEY, generation: int = 0) -> Row:
    op = PUT
    return Row(
        type=PREWRITE, op_type=op, start_ts=start_ts, key=key, value=value, generation=generation
    )


def commit(start_ts: int, commit_ts: int, *, key: bytes = KEY, is_delete: bool = False) -> Row:
    op = DELETE if is_delete else PUT
    return Row(type=COMMIT, op_type=op, start_ts=start_ts, commit_ts=commit_ts, key=key)


def committed(start_ts: int, commit_ts: int, value: bytes, *, key: bytes = KEY) -> Row:
    return Row(
        type=COMMITTED, op_type=PUT, start_ts=start_ts, commit_ts=commit_ts, key=key, value=value
    )


def rollback(start_ts: int, *, key: bytes = KEY) -> Row:
    return Row(type=ROLLBACK, start_ts=start_ts, key=key)


END = Row(type=INITIALIZED)


def test_a_second_prewrite_without_the_value_overtakes_the_scan() -> None:
    """tiflow issue 5468: the change became a delete.

    TiDB prewrites a row again after a conflict, and TiKV sends the second one without the value.
    """
    feed = Feed()
    feed.send(prewrite(110))  # live
    feed.send(commit(110, 120))  # live
    assert feed.changes == []
    feed.send(prewrite(110, b"new"))  # by the scan, from before both
    feed.send(END)
    assert feed.changes == [(KEY, 120, b"new")]


def test_a_commit_overtakes_its_prewrite() -> None:
    """seatunnel issue 11013: the commit was dropped, the frontier went on."""
    feed = Feed()
    feed.send(commit(110, 120))
    assert not feed.resolve(130)  # before INITIALIZED, progress does not count
    feed.send(prewrite(110, b"new"), END)
    assert feed.changes == [(KEY, 120, b"new")]
    assert feed.resolve(130)


def test_a_commit_before_the_snapshot_arrives_before_the_scan() -> None:
    feed = Feed()
    feed.send(commit(110, 120))
    feed.send(committed(110, 120, b"new"), END)
    assert feed.changes == [(KEY, 120, b"new")]


def test_a_heartbeat_and_a_commit_before_the_snapshot() -> None:
    """The prewrite has no value, but the scan sends the version whole."""
    feed = Feed()
    feed.send(prewrite(110), commit(110, 120))
    feed.send(committed(110, 120, b"new"), END)
    assert feed.changes == [(KEY, 120, b"new")]
    assert feed.matcher.pending_bytes == 0


def test_a_rollback_overtakes_its_prewrite() -> None:
    feed = Feed()
    feed.send(rollback(110), prewrite(110, b"new"), END)
    assert feed.matcher.pending_bytes == 0
    feed.send(prewrite(130, b"newer"), commit(130, 140))
    assert feed.changes == [(KEY, 140, b"newer")]


def test_a_heartbeat_does_not_replace_the_value() -> None:
    feed = Feed()
    feed.send(END, prewrite(110, b"new"), prewrite(110), commit(110, 120))
    assert feed.changes == [(KEY, 120, b"new")]


def test_a_conflict_on_the_row_is_a_rollback_and_another_transaction() -> None:
    feed = Feed()
    feed.send(END, prewrite(110, b"lost"), rollback(110))
    feed.send(prewrite(115, b"won"), commit(115, 120))
    assert feed.changes == [(KEY, 120, b"won")]
    with pytest.raises(ChangeFeedError, match="committed but not prewritten"):
        feed.send(commit(110, 130))


def test_flushes_of_a_pipelined_transaction() -> None:
    """Each flush is a prewrite; the newest counts, in any order of arrival."""
    feed = Feed()
    feed.send(prewrite(110, b"second", generation=2), commit(110, 150))
    assert feed.changes == []  # not before the scan has sent the lock
    feed.send(prewrite(110, b"third", generation=3), prewrite(110, b"first", generation=1), END)
    assert feed.changes == [(KEY, 150, b"third")]


def test_the_commit_decides_whether_it_is_a_delete() -> None:
    feed = Feed()
    feed.send(END, prewrite(110, b"value"), commit(110, 120, is_delete=True))
    assert feed.changes == [(KEY, 120, None)]
    with pytest.raises(ChangeFeedError, match="no value"):
        feed.send(prewrite(130), commit(130, 140))


def test_a_commit_without_a_prewrite() -> None:
    feed = Feed()
    feed.send(END)
    with pytest.raises(ChangeFeedError, match="start_ts=110 was committed but not prewritten"):
        feed.send(commit(110, 120))


def test_a_version_below_the_progress_is_delivered() -> None:
    """The writer sees that changes were missing, as after an import."""
    feed = Feed()
    feed.send(END)
    assert feed.resolve(200)
    feed.send(committed(110, 150, b"imported"))
    assert feed.changes == [(KEY, 150, b"imported")]


def test_commits_from_before_the_start_are_old_news() -> None:
    feed = Feed()
    feed.send(END, prewrite(80, b"old"), commit(80, 90))
    assert feed.changes == []


def test_keys_outside_the_request_are_ignored() -> None:
    """TiKV 6.5 sends the whole region."""
    feed = Feed((b"t\x80\0\0\0\0\0\0\x05_r", b"t\x80\0\0\0\0\0\0\x05_s", START))
    index = KEY.replace(b"_r", b"_i")
    feed.send(END, prewrite(110, b"index", key=index), commit(110, 120, key=index))
    feed.send(committed(110, 120, b"meta", key=b"mDB"))
    assert feed.changes == []
    assert feed.matcher.pending_bytes == 0


def test_pieces_that_are_ahead_ignore_what_they_have() -> None:
    """After a merge the request starts from the slower piece."""
    middle = KEY[:-1] + b"\x05"
    feed = Feed((b"t", middle, 150), (middle, b"u", START))
    other = KEY[:-1] + b"\x07"
    feed.send(committed(110, 120, b"x"), committed(110, 120, b"x", key=other))
    feed.send(committed(155, 160, b"y"), END)
    assert feed.changes == [(other, 120, b"x"), (KEY, 160, b"y")]


def test_a_transaction_that_is_prewritten_after_its_start_was_passed() -> None:
    """A pessimistic one, as TiKV's progress does not wait for pessimistic locks."""
    feed = Feed()
    feed.send(END)
    assert feed.resolve(200)
    feed.send(prewrite(110, b"x"))
    assert feed.resolve(200)
    # The slowest region of several, which are reported together.
    assert feed.resolve(210)
    feed.send(commit(110, 250))
    assert feed.changes == [(KEY, 250, b"x")]
    assert feed.matcher.pending_bytes == 0


def test_prewrites_of_transactions_that_cannot_commit_any_more_are_dropped() -> None:
    """They were rolled back without a record."""
    feed = Feed()
    feed.send(END, prewrite(110, b"x"))
    held = feed.matcher.pending_bytes
    assert feed.resolve(from_physical_ms(ABANDONED_MS))
    assert feed.matcher.pending_bytes == held > 0
    assert feed.resolve(from_physical_ms(ABANDONED_MS) + 111)
    assert feed.matcher.pending_bytes == 0


def test_progress_that_falls_back_is_ignored() -> None:
    feed = Feed()
    feed.send(END)
    assert feed.resolve(200)
    assert not feed.resolve(150)
    assert feed.matcher.resolved_ts == 200


def test_a_large_transaction_is_matched_in_its_file() -> None:
    feed = Feed()
    keys = [KEY[:-2] + bytes([n // 200, n % 200]) for n in range(1000)]
    for number, key in enumerate(keys):
        feed.send(prewrite(110, b"v%d" % number, key=key))
        if number == 500:
            assert feed.matcher.spill_largest(Spill(), 100)
    assert feed.matcher.pending_bytes == 0
    feed.send(prewrite(110, key=keys[3]), rollback(110, key=keys[4]), END)
    for number, key in enumerate(keys):
        if number != 4:
            feed.send(commit(110, 120, key=key, is_delete=number == 7))
    assert feed.changes == []
    assert feed.resolve(119)
    assert feed.changes == []
    assert feed.resolve(120)
    expected = {
        (key, 120, None if number == 7 else b"v%d" % number)
        for number, key in enumerate(keys)
        if number != 4
    }
    assert set(feed.changes) == expected
    assert len(feed.changes) == len(expected)


def test_a_large_transaction_without_a_prewrite_of_a_commit() -> None:
    feed = Feed()
    feed.send(END, prewrite(110, b"x" * 100))
    assert feed.matcher.spill_largest(Spill(), 100)
    feed.send(commit(110, 120), commit(110, 120, key=KEY + b"2"))
    feed.resolve(130)
    with pytest.raises(ChangeFeedError, match="without a prewrite"):
        _ = feed.changes


def test_a_large_transaction_with_two_commit_timestamps() -> None:
    feed = Feed()
    feed.send(END, prewrite(110, b"x" * 100), prewrite(110, b"x" * 100, key=KEY + b"2"))
    assert feed.matcher.spill_largest(Spill(), 100)
    feed.send(commit(110, 120))
    with pytest.raises(ChangeFeedError, match="committed at 120 and 121"):
        feed.send(commit(110, 121, key=KEY + b"2"))


def test_a_large_transaction_that_is_rolled_back() -> None:
    feed = Feed()
    feed.send(END, prewrite(110, b"x" * 100))
    assert feed.matcher.spill_largest(Spill(), 100)
    assert feed.resolve(130)
    assert feed.changes == []
    assert not feed.matcher.spill_largest(Spill(), 1)
