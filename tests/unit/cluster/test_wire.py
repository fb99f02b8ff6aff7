import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.cluster import wire
from pyspark_theflash.cluster.tikv.wire.call import decode_mvcc_get
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
from pyspark_theflash.tidb.protocol._generated.kvproto import kvrpcpb_pb2
from tests.support.protobuf import field_numbers


@pytest.mark.parametrize(
    "decode",
    [
        wire.decode_members,
        wire.decode_tso,
        wire.decode_safe_point,
        wire.decode_range,
    ],
)
def test_garbage(decode):
    with pytest.raises(CodecError, match="not a message"):
        decode(b"\xff")


def test_field_numbers_are_etcds():
    assert field_numbers(kv_pb2) == {
        "ResponseHeader.revision": 3,
        "KeyValue.key": 1,
        "KeyValue.mod_revision": 3,
        "KeyValue.value": 5,
        "RangeRequest.key": 1,
        "RangeRequest.range_end": 2,
        "RangeRequest.limit": 3,
        "RangeResponse.header": 1,
        "RangeResponse.kvs": 2,
        "RangeResponse.more": 3,
        "PutRequest.key": 1,
        "PutRequest.value": 2,
        "WatchRequest.create_request": 1,
        "WatchCreateRequest.key": 1,
        "WatchCreateRequest.range_end": 2,
        "WatchCreateRequest.start_revision": 3,
        "WatchCreateRequest.progress_notify": 4,
        "WatchResponse.header": 1,
        "WatchResponse.created": 3,
        "WatchResponse.canceled": 4,
        "WatchResponse.compact_revision": 5,
        "WatchResponse.cancel_reason": 6,
        "WatchResponse.events": 11,
        "Event.type": 1,
        "Event.kv": 2,
    }


@pytest.mark.parametrize(("fence", "is_valid"), [(0, True), (21, True), (15, False)])
def test_a_rewritten_record(fence: int, is_valid: bool) -> None:
    """It is valid unless the version at its fence was collected."""
    response = kvrpcpb_pb2.MvccGetByKeyResponse()
    response.info.writes.add(start_ts=20, commit_ts=21, short_value=b"b")
    response.info.writes.add(start_ts=10, commit_ts=11, short_value=b"a", gc_fence=fence)
    info = decode_mvcc_get(response.SerializeToString()).value
    assert info is not None
    assert [write.commit_ts for write in info.writes] == ([11, 21] if is_valid else [21])
