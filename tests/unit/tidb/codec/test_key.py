"""Record keys, index keys and TiKV's keys, against TiDB's own."""

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.tidb.codec.key import (
    MvccKey,
    RawKey,
    RecordKey,
    decode_mvcc_key,
    decode_record_key,
    encode_record_key,
    table_of,
)
from tests.support.encoding import encode_index_prefix, encode_mvcc_key
from tests.support.golden_vectors import codec_vectors


def test_record_keys() -> None:
    for vector in codec_vectors("tablecodec.RowKey"):
        table_id, handle = map(int, vector["in"])
        key = encode_record_key(PhysicalTableID(table_id), handle)
        assert key.hex() == vector["hex"]
        assert decode_record_key(key) == RecordKey(PhysicalTableID(table_id), handle)


def test_common_handle() -> None:
    handle = bytes.fromhex("060100810000000000")
    key = encode_record_key(PhysicalTableID(92), handle)
    assert key.hex() == "74800000000000005c5f72060100810000000000"
    assert decode_record_key(key) == RecordKey(PhysicalTableID(92), handle)


def test_index_prefix() -> None:
    assert (
        encode_index_prefix(PhysicalTableID(92), 1).hex()
        == "74800000000000005c5f698000000000000001"
    )


def test_keys_in_tikv() -> None:
    for vector in codec_vectors("tikv.datakey"):
        table_id, handle, ts = map(int, vector["in"])
        raw = encode_record_key(PhysicalTableID(table_id), handle)
        key = encode_mvcc_key(raw, TimeStamp(ts))
        assert key.hex() == vector["hex"]
        assert decode_mvcc_key(key) == (raw, ts)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "74",
        "6d" + "00" * 18,
        "74800000000000005c5f69" + "00" * 8,
        "74800000000000005c5f72" + "00" * 7,
    ],
)
def test_not_a_record_key(key: str) -> None:
    with pytest.raises(CodecError):
        decode_record_key(RawKey(bytes.fromhex(key)))


def test_not_a_key_of_tikv() -> None:
    key = encode_mvcc_key(RawKey(b"abc"), TimeStamp(1))
    for bad in (key[:-1], key + b"\0", b""):
        with pytest.raises(CodecError):
            decode_mvcc_key(MvccKey(bad))


def test_whose_key_it_is() -> None:
    assert table_of(encode_record_key(PhysicalTableID(92), b"a name")) == "table 92"
    assert table_of(encode_index_prefix(PhysicalTableID(7), 1)) == "table 7"
    assert table_of(RawKey(b"mDB")) == "a meta key"
    assert table_of(RawKey(b"t\x80")) == "a key of no table"
