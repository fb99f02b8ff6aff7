import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.replication.pairing.pending import PendingTransaction
from pyspark_theflash.replication.source.event import DdlInfo

DDL = DdlInfo("create table ü(a int)", 2**40, 5)


@pytest.mark.parametrize("ddl", [None, DDL])
@pytest.mark.parametrize("payload", [None, b"", b"payload"])
def test_bytes_and_back(payload, ddl):
    pending = PendingTransaction(2**64 - 2, 2**64 - 1, 7, payload, ddl)
    assert PendingTransaction.from_bytes(pending.to_bytes()) == pending


def test_layout():
    data = PendingTransaction(1, 2, 3, b"ab", DdlInfo("q", 4, 5)).to_bytes()
    timestamps = "0100000000000000 0200000000000000 0300000000000000"
    job = "0400000000000000 05000000 01000000 71"
    assert data == bytes.fromhex(f"03 {timestamps} {job} 6162")


@pytest.mark.parametrize("size", [0, 24, 25, 40, 45])
def test_cut_short(size):
    with pytest.raises(CodecError, match="pending transaction"):
        PendingTransaction.from_bytes(PendingTransaction(1, 2, 3, None, DDL).to_bytes()[:size])


def test_unknown_flags():
    data = bytearray(PendingTransaction(1, 2, 3, None, None).to_bytes())
    data[0] = 4
    with pytest.raises(CodecError):
        PendingTransaction.from_bytes(bytes(data))


def test_query_that_is_no_text():
    data = bytearray(PendingTransaction(1, 2, 3, None, DdlInfo("q", 4, 5)).to_bytes())
    data[-1] = 0xFF
    with pytest.raises(CodecError):
        PendingTransaction.from_bytes(bytes(data))
