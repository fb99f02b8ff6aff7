import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.replication.pump import wire
from pyspark_theflash.tidb.protocol._generated.tipb import pump_pb2
from tests.support.protobuf import field_numbers

U64, I64 = st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)


@given(U64, st.binary())
def test_write_requests(cluster_id, payload):
    request = wire.WriteBinlogRequest(cluster_id, payload)
    assert wire.WriteBinlogRequest.from_bytes(request.to_bytes()) == request


@given(U64, U64, I64)
def test_pull_requests(cluster_id, suffix, offset):
    request = wire.PullRequest(cluster_id, suffix, offset)
    assert wire.PullRequest.from_bytes(request.to_bytes()) == request


@given(U64, st.integers(1, 2**63 - 1), st.binary())
def test_pulled_binlogs(suffix, offset, payload):
    pulled = wire.PulledBinlog(suffix, offset, payload, merged=False)
    assert wire.PulledBinlog.from_bytes(pulled.to_bytes()) == pulled


@given(st.text())
def test_write_responses(text):
    assert wire.decode_write_response(wire.encode_write_response(text)) == text


@pytest.mark.parametrize(
    "decode",
    [
        wire.WriteBinlogRequest.from_bytes,
        wire.PullRequest.from_bytes,
        wire.PulledBinlog.from_bytes,
        wire.decode_write_response,
    ],
)
def test_garbage(decode):
    with pytest.raises(CodecError, match="not a message"):
        decode(b"\xff")


def test_payloads_are_not_shown():
    assert "secret" not in repr(wire.WriteBinlogRequest(1, b"secret"))
    assert "secret" not in repr(wire.PulledBinlog(1, 1, b"secret", merged=False))


def test_field_numbers_are_tipbs():
    assert field_numbers(pump_pb2) == {
        "WriteBinlogReq.clusterID": 1,
        "WriteBinlogReq.payload": 2,
        "WriteBinlogResp.errmsg": 1,
        "PullBinlogReq.clusterID": 1,
        "PullBinlogReq.startFrom": 2,
        "PullBinlogResp.entity": 1,
        "Pos.suffix": 1,
        "Pos.offset": 2,
        "Meta.startTs": 2,
        "Meta.commitTs": 3,
        "Entity.pos": 1,
        "Entity.meta": 2,
        "Entity.payload": 3,
        "Entity.checksum": 4,
    }
