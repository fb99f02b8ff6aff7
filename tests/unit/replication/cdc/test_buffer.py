"""The buffer of a change feed: chunks of bounded size and number, and spans that are removed."""

from collections.abc import Iterator

import pytest

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.replication.cdc import buffer, txn_log
from pyspark_theflash.replication.cdc.buffer import ChangeBuffer
from pyspark_theflash.replication.cdc.matcher import CommittedRows
from pyspark_theflash.replication.cdc.txn_log import TxnLog
from pyspark_theflash.replication.cdc.wire import PUT
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key

ROWS, VALUE = 2000, b"v" * 100


def log() -> TxnLog:
    made = TxnLog(Spill(), TimeStamp(7))
    keys = [encode_record_key(5, n * 37 % ROWS) for n in range(ROWS)]
    for key in keys:
        made.prewrite(key, VALUE, 0)
    for key in keys:
        made.commit(key, TimeStamp(9), PUT, is_early=False)
    return made


@pytest.mark.parametrize("read_bytes", [1, 50_000, 1 << 30])
def test_parts_of_a_log(monkeypatch: pytest.MonkeyPatch, read_bytes: int) -> None:
    """A part of the file has about a 64th of the rows; small ones are read together."""
    monkeypatch.setattr(txn_log, "_READ_BYTES", read_bytes)
    sizes = [len(rows) for rows in log().parts()]
    assert sum(sizes) == ROWS
    event_bytes = 2 * (18 + 19) + len(VALUE)
    assert max(sizes) <= read_bytes // event_bytes + 2 * ROWS // txn_log._PARTS
    assert len(sizes) <= ROWS * event_bytes // read_bytes + 1 or read_bytes == 1


def test_chunks_of_a_large_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one part are in the order of their keys, so their files do not overlap."""
    monkeypatch.setattr(buffer, "LARGE_CHUNK_BYTES", 10_000)
    changes = ChangeBuffer(Spill())
    changes.add(CommittedRows(logs=[log()]), [], [])
    chunks = list(changes.take(TimeStamp(9)).large)
    handles = [handle for chunk in chunks for handle in chunk.handles.to_pylist()]
    assert handles == list(range(ROWS))
    assert all(chunk.size_bytes < 12_000 + 50 * len(chunk) for chunk in chunks)
    assert len(chunks) > ROWS * len(VALUE) // 12_000


def one_row(table_id: int, handle: int | bytes, commit_ts: int) -> CommittedRows:
    rows = CommittedRows()
    key = encode_record_key(PhysicalTableID(table_id), handle)
    rows.add(key, VALUE, commit_ts - 1, commit_ts, PUT)
    return rows


def test_chunks_of_many_polls_are_joined() -> None:
    """A frontier that stays behind does not make every call search thousands of chunks."""
    changes, count = ChangeBuffer(Spill()), 3000
    for n in range(count):
        handle = encode_bytes(b"%d" % n) if n % 3 else n
        changes.add(one_row(5 + n % 3, handle, n + 1), [n % 2], [1])
    assert len(changes._chunks) < 30
    changes.discard({1: TimeStamp(count // 2)})
    chunks = list(changes.take(TimeStamp(count)).versions)
    assert changes.size_bytes == 0
    rows = [ts for chunk in chunks for ts in chunk.commit_ts.tolist()]
    # Request 1 had the even timestamps.
    assert sorted(rows) == [n for n in range(1, count + 1) if n % 2 or n <= count // 2]
    for chunk in chunks:
        assert (chunk.table_id == 5 + (chunk.commit_ts.astype(int) - 1) % 3).all()


def test_joined_chunks_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "JOINED_BYTES", 10_000)
    changes = ChangeBuffer(Spill())
    for n in range(1000):
        changes.add(one_row(5, n, n + 1), [1], [1])
    chunks = list(changes.take(TimeStamp(1000)).versions)
    assert max(chunk.size_bytes for chunk in chunks) <= 10_000
    assert sum(map(len, chunks)) == 1000


def test_removing_a_span_decodes_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def counted(table_id: PhysicalTableID, handle: int | bytes) -> RawKey:
        encoded.append(table_id)
        return encode_record_key(table_id, handle)

    changes = ChangeBuffer(Spill())
    for n in range(100):
        changes.add(one_row(5 + n % 4, n, n + 1), [1], [1])
    monkeypatch.setattr(buffer, "encode_record_key", counted)
    table = RawKeyRange.of_prefix(encode_record_key(PhysicalTableID(6), b""))
    changes.remove(table)
    changes.remove(table)
    assert encoded == [6] * 25
    middle = encode_record_key(PhysicalTableID(7), 50)
    changes.remove(RawKeyRange(RawKey(b""), middle))
    changes.remove(RawKeyRange(encode_record_key(PhysicalTableID(8), 40), RawKey(b"")))
    left = [each for chunk in changes.take(TimeStamp(100)).versions for each in rows_of(chunk)]
    expected = [(7, n) for n in range(100) if n % 4 == 2 and n >= 50]
    assert sorted(left) == expected + [(8, n) for n in range(40) if n % 4 == 3]


def rows_of(chunk: Versions) -> Iterator[tuple[int, int]]:
    return zip(chunk.table_id.tolist(), chunk.handles.to_pylist(), strict=True)
