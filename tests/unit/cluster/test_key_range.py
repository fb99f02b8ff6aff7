"""Conversion of key ranges to handle bounds, checked for every key of a table."""

import random

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.cluster.key_range import EncodedKeyRange, handle_bounds, record_range
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import encode_record_key

TABLE = PhysicalTableID(7)


def test_records_of_a_table() -> None:
    keys = record_range(TABLE)
    for handle in (-(2**63), 0, 2**63 - 1, b"\xff" * 30, b"\x03" + bytes(8)):
        assert keys.contains(encode_bytes(encode_record_key(TABLE, handle)))
    for other in (PhysicalTableID(6), PhysicalTableID(8)):
        assert not keys.contains(encode_bytes(encode_record_key(other, 0)))
    assert not keys.contains(encode_bytes(b"t\x80\0\0\0\0\0\0\x07_i" + bytes(16)))


def test_what_ranges_have_in_common() -> None:
    a, b = EncodedKeyRange(b"b", b"d"), EncodedKeyRange(b"c", b"")
    assert a.within(b) == b.within(a) == EncodedKeyRange(b"c", b"d")
    assert EncodedKeyRange(b"", b"").within(EncodedKeyRange(b"", b"")) == EncodedKeyRange(b"", b"")
    assert a.within(EncodedKeyRange(b"d", b"")) is None


@pytest.mark.parametrize("is_common", [False, True])
def test_bounds_agree_with_keys(is_common: bool) -> None:
    rng = random.Random(4)
    ends = [-(2**63), -1, 0, 1, 2**63 - 1, *(rng.getrandbits(63) for _ in range(5))]
    handles = [rng.randbytes(rng.randint(9, 20)) for _ in range(12)] if is_common else ends
    raws = [encode_record_key(TABLE, handle) for handle in handles]
    bounds = [b"", *raws, *(raw[: rng.randint(9, len(raw))] for raw in raws)]
    bounds += [raw + b"\x01" for raw in raws]
    bounds += [encode_record_key(PhysicalTableID(n), 5) for n in (6, 8)]
    for _ in range(300):
        start, end = sorted(rng.sample(bounds, 2))
        keys = EncodedKeyRange(encode_bytes(start) if start else b"", encode_bytes(end))
        if rng.random() < 0.2:
            keys = EncodedKeyRange(keys.start, b"")
        bounds_of_handles = handle_bounds(TABLE, keys, is_common=is_common)
        for handle, raw in zip(handles, raws, strict=True):
            inside = bounds_of_handles is not None
            if bounds_of_handles is not None and bounds_of_handles[0] is not None:
                inside &= handle >= bounds_of_handles[0]  # type: ignore[operator]
            if bounds_of_handles is not None and bounds_of_handles[1] is not None:
                inside &= handle < bounds_of_handles[1]  # type: ignore[operator]
            assert inside == keys.contains(encode_bytes(raw)), (keys, handle)


def test_a_bound_that_is_no_key() -> None:
    start = record_range(TABLE).start
    with pytest.raises(CodecError):
        handle_bounds(TABLE, EncodedKeyRange(start + b"\x01", b""), is_common=False)
