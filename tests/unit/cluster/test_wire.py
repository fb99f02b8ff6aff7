import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.cluster import wire
from pyspark_theflash.tidb.protocol._generated.etcd import kv_pb2
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
        "KeyValue.key": 1,
        "KeyValue.value": 5,
        "RangeRequest.key": 1,
        "RangeRequest.range_end": 2,
        "RangeRequest.limit": 3,
        "RangeResponse.kvs": 2,
        "RangeResponse.more": 3,
        "PutRequest.key": 1,
        "PutRequest.value": 2,
    }
