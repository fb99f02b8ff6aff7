"""Pages of snapshot scans: the same result as protobuf's for every message."""

import random

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.cluster.tikv.wire.call import decode_scan
from pyspark_theflash.cluster.tikv.wire.page import _pair_bounds, decode_scan_page
from pyspark_theflash.tidb.protocol._generated.kvproto import errorpb_pb2, kvrpcpb_pb2

KeyError_ = kvrpcpb_pb2.KeyError


def pair(key, value, **others):
    return kvrpcpb_pb2.KvPair(key=key, value=value, **others)


def outcome(data, decode, pairs_of):
    try:
        answer = decode(data)
    except CodecError:
        return CodecError
    if answer.value is None:
        return answer.region_error
    return pairs_of(answer.value), answer.value.locks, answer.value.failure


def both(data):
    """Check that both decoders agree on a message; return the result."""
    plain = outcome(data, decode_scan, lambda read: list(read.pairs))
    paged = outcome(
        data,
        decode_scan_page,
        lambda page: list(zip(page.keys.to_pylist(), page.values.to_pylist(), strict=True)),
    )
    assert paged == plain
    return paged


def test_pairs_of_all_sizes():
    sizes = [1, 2, 127, 128, 129, 16_383, 16_384, 70_000]
    pairs = [pair(bytes([n]) * size, b"v" * size) for n, size in enumerate(sizes)]
    data = kvrpcpb_pb2.ScanResponse(pairs=pairs).SerializeToString()
    assert _pair_bounds(data) is not None
    assert [len(value) for _, value in both(data)[0]] == sizes
    page = decode_scan_page(data).value
    assert page.is_ordered
    assert not decode_scan_page(
        kvrpcpb_pb2.ScanResponse(pairs=pairs[::-1]).SerializeToString()
    ).value.is_ordered


@pytest.mark.parametrize(
    "message",
    [
        kvrpcpb_pb2.ScanResponse(),
        kvrpcpb_pb2.ScanResponse(pairs=[pair(b"a", b"")]),
        kvrpcpb_pb2.ScanResponse(pairs=[pair(b"", b"v"), pair(b"b", b"w")]),
        kvrpcpb_pb2.ScanResponse(
            pairs=[
                pair(b"a", b"v"),
                pair(b"b", b"", error=KeyError_(locked=kvrpcpb_pb2.LockInfo(key=b"b"))),
            ]
        ),
        kvrpcpb_pb2.ScanResponse(error=KeyError_(abort="aborted")),
        kvrpcpb_pb2.ScanResponse(
            region_error=errorpb_pb2.Error(region_not_found=errorpb_pb2.RegionNotFound())
        ),
    ],
)
def test_other_messages(message):
    both(message.SerializeToString())


def test_fields_in_another_order():
    value_first = b"\x1a\x01v\x0a\x00\x12\x01k"
    both(b"\x12" + bytes([len(value_first)]) + value_first)


def test_damaged_messages():
    rng = random.Random(7)
    pairs = [pair(rng.randbytes(19), rng.randbytes(rng.randrange(200))) for _ in range(5)]
    data = kvrpcpb_pb2.ScanResponse(pairs=pairs).SerializeToString()
    for _ in range(3000):
        damaged = bytearray(data[: rng.randrange(len(data) + 1)])
        for _ in range(rng.randrange(3)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        both(bytes(damaged))
