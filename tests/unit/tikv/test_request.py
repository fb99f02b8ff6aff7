"""Vectorized decoding of requests equals protobuf's."""

import random

import numpy as np
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.protocol._generated.kvproto import raft_cmdpb_pb2, raft_serverpb_pb2
from pyspark_theflash.tikv.command import DeleteRange, IngestFile
from pyspark_theflash.tikv.request import (
    FAMILIES,
    Family,
    decode_pairs,
    decode_requests,
    record_keys,
    sort_requests,
)
from tests.support.raft_tikv import at_ts, encoded

SIZES = [0, 1, 5, 100, 120, 127, 128, 200, 300, 16_383, 16_384, 20_000]


def _request(rng: random.Random) -> raft_cmdpb_pb2.Request:
    cf = rng.choice(["", "default", "lock", "write"])
    key = encoded(rng.randbytes(rng.choice([0, 1, 8, 19, 30, 130])))
    if rng.random() < 0.3:
        delete = raft_cmdpb_pb2.DeleteRequest(cf=cf, key=key)
        return raft_cmdpb_pb2.Request(cmd_type=raft_cmdpb_pb2.Delete, delete=delete)
    value = rng.randbytes(rng.choice(SIZES))
    put = raft_cmdpb_pb2.PutRequest(cf=cf, key=key, value=value)
    return raft_cmdpb_pb2.Request(cmd_type=raft_cmdpb_pb2.Put, put=put)


def test_what_protobuf_says() -> None:
    rng = random.Random(5)
    requests = [_request(rng) for _ in range(400)]
    decoded = decode_requests([request.SerializeToString() for request in requests])
    rows = np.arange(len(requests))
    keys, values = decoded.keys(rows), decoded.values(rows)
    for n, request in enumerate(requests):
        is_put = request.cmd_type == raft_cmdpb_pb2.Put
        content = request.put if is_put else request.delete
        assert bool(decoded.is_put[n]) == is_put
        assert Family(decoded.family[n]) == FAMILIES[content.cf or "default"]
        assert keys[n] == content.key
        assert values[n] == (request.put.value if is_put else b"")


def test_pairs_of_a_snapshot() -> None:
    rng = random.Random(6)
    pairs = [(rng.randbytes(rng.choice(SIZES[1:9])), rng.randbytes(n)) for n in SIZES]
    messages = [raft_serverpb_pb2.KeyValue(key=k, value=v).SerializeToString() for k, v in pairs]
    decoded = decode_pairs(messages, Family.LOCK)
    rows = np.arange(len(pairs))
    assert list(zip(decoded.keys(rows), decoded.values(rows), strict=True)) == pairs
    assert set(decoded.family.tolist()) == {Family.LOCK}


def _put(key: bytes = b"k", value: bytes = b"v") -> bytes:
    put = raft_cmdpb_pb2.PutRequest(cf="write", key=key, value=value)
    return raft_cmdpb_pb2.Request(cmd_type=raft_cmdpb_pb2.Put, put=put).SerializeToString()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x08\x03",
        _put()[:-1],
        _put() + b"\x08\x03",
        b"\x22" + _put()[3:] + b"\x08\x03",  # the kind after the request
        b"\x08\x03\x22\x03\x0a\x01x",  # another column family
        b"\x08\x04\x2a\x06\x12\x01k\x1a\x01v",  # a delete with a value
        b"\x08\x03\x22\x02\x1a\x00",
        b"\x08\x03\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
)
def test_what_is_not_written_in_order(message: bytes) -> None:
    with pytest.raises(CodecError):
        decode_requests([_put(), message])


def test_other_requests_and_other_orders() -> None:
    put, kind = _put(), b"\x08\x03"
    reordered = put[2:] + kind
    unknown = put + b"\xf8\x07\x05"
    ranged = raft_cmdpb_pb2.Request(cmd_type=raft_cmdpb_pb2.DeleteRange)
    ranged.delete_range.cf, ranged.delete_range.start_key = "lock", b"a"
    ranged.delete_range.end_key = b"b"
    file = raft_cmdpb_pb2.Request(cmd_type=raft_cmdpb_pb2.IngestSST)
    file.ingest_sst.sst.uuid, file.ingest_sst.sst.cf_name = b"u", "write"
    nothing = raft_cmdpb_pb2.Request(cmd_type=raft_cmdpb_pb2.Snap)
    messages = [reordered, unknown, ranged.SerializeToString(), nothing.SerializeToString()]
    messages += [file.SerializeToString(), put, nothing.SerializeToString(), put]
    assert sort_requests(messages) == [
        [put, put],
        DeleteRange("lock", b"a", b"b"),
        IngestFile(b"u", "write", b"", b""),
        [put, put],
    ]
    with pytest.raises(CodecError):
        sort_requests([b"\xff"])


def test_keys_of_rows() -> None:
    def table(number: int) -> bytes:
        return b"t" + (number + 2**63).to_bytes(8, "big")

    raws = {
        table(7) + b"_r" + (5 + 2**63).to_bytes(8, "big"): (7, 5),
        table(-7) + b"_r" + bytes(8): (-7, -(2**63)),
        table(2**62) + b"_r" + b"\xff" * 8: (2**62, 2**63 - 1),
        table(7) + b"_r" + b"\x01common!!": (7, None),
        table(7) + b"_r" + b"c" * 40: (7, None),
        table(7) + b"_i" + bytes(16): None,
        b"mDB:1\0\0\0\0\0\0\0": None,
        b"": None,
        table(7) + b"_r": None,
    }
    messages = [_put(at_ts(encoded(raw), 3)) for raw in raws]
    requests = decode_requests(messages)
    decoded = record_keys(requests, np.arange(len(messages)))
    expected = [place for place in raws.values() if place is not None]
    assert decoded.table_id.tolist() == [table_id for table_id, _ in expected]
    is_int = decoded.has_int_handle(requests, 8)
    assert is_int.tolist() == [handle is not None for _, handle in expected]
    ints = decoded.select(np.flatnonzero(is_int))
    handles = ints.int_handles(requests.reader, requests.key_at[ints.rows])
    assert handles.tolist() == [handle for _, handle in expected if handle is not None]


def test_a_damaged_integer_key() -> None:
    key = bytearray(encoded(b"t" + bytes(8) + b"_r" + bytes(8)))
    for at in (17, 22):
        broken = bytes(key[:at] + bytes([key[at] ^ 1]) + key[at + 1 :])
        requests = decode_requests([_put(at_ts(broken, 3))])
        decoded = record_keys(requests, np.arange(1))
        with pytest.raises(CodecError, match="memcomparable"):
            decoded.int_handles(requests.reader, requests.key_at)
