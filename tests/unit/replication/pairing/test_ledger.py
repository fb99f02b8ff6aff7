import random
from functools import cache

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.replication.pairing.ledger import (
    LedgerEntry,
    TransactionLedger,
    pack_entries,
)
from pyspark_theflash.replication.source.event import DdlInfo, Transaction, content_digest

ROLLED_BACK = LedgerEntry.rolled_back(5)
# A digest that ends in a zero byte, and the highest timestamps.
COMMITTED = LedgerEntry(2**64 - 2, 2**64 - 1, bytes(range(15, -1, -1)))


@cache
def entries(count, seed=1):
    rng = random.Random(seed)
    start_ts = rng.sample(range(1, 2**63), count)
    return [LedgerEntry(s, s + rng.randrange(1, 9), rng.randbytes(16)) for s in start_ts]


def test_entry_of_a_transaction():
    transaction = Transaction(1, 2, b"value", None)
    assert LedgerEntry.committed(transaction) == LedgerEntry(1, 2, content_digest(b"value", None))
    assert content_digest(b"value", None).hex() == "b9593f9e1096b5482cd35ed7e15d1f18"


def test_digest_covers_the_ddl_job():
    job = DdlInfo("drop table t", 9, 0)
    digests = {
        content_digest(payload, ddl)
        for payload in (b"", b"value")
        for ddl in (None, job, DdlInfo("drop table u", 9, 0), DdlInfo("drop table t", 9, 1))
    }
    assert len(digests) == 8


def test_packed_entries_have_32_bytes():
    packed = pack_entries([ROLLED_BACK, COMMITTED])
    assert len(packed) == 64
    assert packed[:16] == (5).to_bytes(8, "little") + bytes(8)
    assert packed[48:] == COMMITTED.digest
    assert pack_entries([]) == b""


def test_packed_entries_cut_short():
    with pytest.raises(CodecError, match="31 bytes are not a multiple of 32"):
        TransactionLedger().add_packed(pack_entries([ROLLED_BACK])[:-1])
    with pytest.raises(CodecError):
        TransactionLedger().add_packed(b"x")


def test_lookup():
    ledger = TransactionLedger()
    assert ledger.lookup(5) is None
    ledger.add([ROLLED_BACK])
    ledger.add_packed(pack_entries([COMMITTED]))
    ledger.add_packed(b"")
    assert ledger.lookup(5) == ROLLED_BACK
    assert ledger.lookup(2**64 - 2) == COMMITTED
    assert [ledger.lookup(ts) for ts in (1, 6, 2**64 - 1)] == [None] * 3
    assert len(ledger) == 2


@pytest.mark.parametrize("batch", [100, 20_000, 100_000])
def test_many_entries_in_any_order(batch):
    recorded, others = entries(100_000), {entry.start_ts for entry in entries(1000, seed=2)}
    ledger = TransactionLedger()
    for at in range(0, len(recorded), batch):
        ledger.add(recorded[at : at + batch])
    assert len(ledger) == len(recorded)
    assert all(ledger.lookup(entry.start_ts) == entry for entry in recorded[::50])
    recorded_ts = {entry.start_ts for entry in recorded}
    assert all(ledger.lookup(ts) is None for ts in others - recorded_ts)
