"""Lock records: all fields, malformed records, and which locks block a read."""

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import Lock, LockKind, decode_lock
from pyspark_theflash.tidb.codec.key import RawKey
from tests.support.percolator_records import LockRecord

KEY = RawKey(b"t\x80\0\0\0\0\0\0\x01_r\x80\0\0\0\0\0\0\x07")
TS = 470613076829274114


def _lock(kind="P", **fields):
    return decode_lock(KEY, LockRecord(kind, b"primary", TS, **fields).encode())


def test_bytes_written_out():
    # As `txn_types::Lock::to_bytes` lays it out: kind, 2 * len, key, start_ts, ttl, v, c.
    data = bytes.fromhex("5004706b05ac02760178630000000000000009")
    assert decode_lock(KEY, data) == Lock(
        KEY, LockKind.PUT, b"pk", 5, 300, short_value=b"x", min_commit_ts=9
    )


def test_every_field():
    lock = _lock(
        ttl=3000,
        short_value=b"row",
        for_update_ts=TS + 1,
        txn_size=17,
        min_commit_ts=TS + 2,
        secondaries=[b"a", b"", b"c" * 300],
        rollback_ts=[TS - 2, TS - 1],
        last_change=(TS - 9, 3),
        source=5,
        with_conflict=True,
        generation=4,
    )
    assert lock == Lock(
        key=KEY,
        kind=LockKind.PUT,
        primary=b"primary",
        start_ts=TS,
        ttl_ms=3000,
        short_value=b"row",
        for_update_ts=TS + 1,
        txn_size=17,
        min_commit_ts=TS + 2,
        use_async_commit=True,
        secondaries=(b"a", b"", b"c" * 300),
        rollback_ts=(TS - 2, TS - 1),
        last_change_ts=TS - 9,
        last_change_versions=3,
        txn_source=5,
        is_locked_with_conflict=True,
        generation=4,
    )


@pytest.mark.parametrize("kind", LockKind)
def test_every_kind(kind):
    assert _lock(chr(kind.value)) == Lock(KEY, kind, b"primary", TS)


def test_async_commit_without_secondaries_is_async_commit():
    assert _lock(secondaries=[]).use_async_commit
    assert not _lock().use_async_commit


def test_an_empty_short_value_is_a_value():
    assert _lock(short_value=b"").short_value == b""
    assert _lock().short_value is None


def test_a_record_without_ttl():
    assert decode_lock(KEY, b"D" + b"\x02p" + b"\x07") == Lock(KEY, LockKind.DELETE, b"p", 7)


def test_an_unknown_tag_ends_the_record():
    data = LockRecord("P", b"p", 7, short_value=b"x").encode() + b"?\xff\xff\xff"
    assert decode_lock(KEY, data).short_value == b"x"


HOLDERS = [
    LockRecord("L", b"p1", 11),
    LockRecord("S", b"p2", 12, for_update_ts=13),
]


def test_shared_locks_in_their_first_form():
    lock = decode_lock(KEY, LockRecord("H", b"", 11, shared_by=HOLDERS).encode())
    assert lock.kind is LockKind.SHARED
    assert [(h.kind, h.primary, h.start_ts) for h in lock.shared_by] == [
        (LockKind.LOCK, b"p1", 11),
        (LockKind.PESSIMISTIC, b"p2", 12),
    ]
    assert lock.shared_by[1].for_update_ts == 13


def test_shared_locks_in_their_second_form():
    first = LockRecord("H", b"", 11, shared_by=HOLDERS).encode()
    tags = first[first.index(b"h\x02") :]
    for data in (b"H" + tags, b"Hi\x01" + tags):
        assert [h.start_ts for h in decode_lock(KEY, data).shared_by] == [11, 12]
    assert decode_lock(KEY, b"H").shared_by == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"X",
        b"P",
        b"P\x10abc",
        b"P\x01",  # a primary of length -1
        b"P\x02p\x80",
        b"P\x02p\x07\x01v",
        b"P\x02p\x07\x01v\x05abc",
        b"P\x02p\x07\x01c\0\0\0",
        b"P\x02p\x07\x01a\xff\xff\xff\xff\x0f",
        b"P\x02p\x07\x01r\x02" + bytes(8),
        b"Hh\x01\x02H",
    ],
)
def test_what_is_no_lock_record(data):
    with pytest.raises(CodecError, match=r"lock record|varint|number"):
        decode_lock(KEY, data)


def test_rows_are_not_in_the_text():
    assert "secret" not in repr(_lock(short_value=b"secret"))


@pytest.mark.parametrize("kind", "PD")
@pytest.mark.parametrize(
    ("min_commit_ts", "snapshot_ts", "blocks"),
    [
        (0, TS - 1, False),
        (0, TS, True),
        (0, TS + 1, True),
        (TS + 5, TS + 4, False),
        (TS + 5, TS + 5, True),
        (TS + 5, TS + 6, True),
    ],
)
def test_data_blocks_from_where_it_can_commit(kind, min_commit_ts, snapshot_ts, blocks):
    lock = _lock(kind, min_commit_ts=min_commit_ts)
    assert lock.blocks(TimeStamp(snapshot_ts)) == blocks


@pytest.mark.parametrize("kind", "LSH")
def test_what_has_no_data_never_blocks(kind):
    assert not _lock(kind).blocks(TimeStamp(TS + 1))
