"""Large transactions in the buffer of a change feed: chunks of bounded size."""

import pytest

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.cdc import buffer, txn_log
from pyspark_theflash.replication.cdc.buffer import ChangeBuffer
from pyspark_theflash.replication.cdc.matcher import CommittedRows
from pyspark_theflash.replication.cdc.txn_log import TxnLog
from pyspark_theflash.replication.cdc.wire import PUT
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.tidb.codec.key import encode_record_key

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
