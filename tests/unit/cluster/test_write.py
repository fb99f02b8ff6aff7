"""Write records: TiDB's test vectors, all fields, and malformed records."""

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.cluster.write import Write, WriteKind, decode_write
from tests.support.golden_vectors import codec_vectors
from tests.support.percolator_records import write_record

TS = 470613076829274114


@pytest.mark.parametrize("vector", codec_vectors("cf.write"), ids=lambda v: v["hex"])
def test_golden(vector):
    write = decode_write(bytes.fromhex(vector["hex"]))
    start_ts, value = vector["in"]
    assert write == Write(
        WriteKind(ord(vector["type"])), int(start_ts), bytes.fromhex(value) or None
    )


def test_every_field():
    data = write_record(
        "P",
        TS,
        short_value=b"",
        overlapped_rollback=True,
        gc_fence=0,
        last_change=(TS - 1, 300),
        source=200,
    )
    assert decode_write(data) == Write(
        WriteKind.PUT,
        TS,
        short_value=b"",
        has_overlapped_rollback=True,
        gc_fence=0,
        last_change_ts=TS - 1,
        last_change_versions=300,
        txn_source=200,
    )


def test_no_fence_is_not_fence_zero():
    assert decode_write(write_record("P", TS)).gc_fence is None
    assert decode_write(write_record("P", TS, gc_fence=TS + 1)).gc_fence == TS + 1


def test_an_unknown_tag_ends_the_record():
    assert decode_write(write_record("D", TS) + b"?zz") == Write(WriteKind.DELETE, TS)


@pytest.mark.parametrize(("kind", "data"), [("P", True), ("D", True), ("L", False), ("R", False)])
def test_what_makes_versions(kind, data):
    assert decode_write(write_record(kind, TS)).has_data == data


@pytest.mark.parametrize(
    "data", [b"", b"S\x01", b"P", b"P\x80", b"P\x01v", b"P\x01v\x02a", b"P\x01F\0"]
)
def test_what_is_no_write_record(data):
    with pytest.raises(CodecError):
        decode_write(data)
