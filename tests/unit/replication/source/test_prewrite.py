import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE, parse_prewrite
from pyspark_theflash.tidb.protocol._generated.tipb import binlog_pb2
from tests.support import binlog_writer


def value(**fields):
    mutation = binlog_pb2.TableMutation(table_id=7, **fields)
    return binlog_pb2.PrewriteValue(schema_version=3, mutations=[mutation]).SerializeToString()


def test_lists_and_their_order():
    changes = {
        7: [(INSERT, b"i1"), (UPDATE, b"u1"), (INSERT, b"i2"), (DELETE_ROW, b"d1")],
        8: [(DELETE_ROW, b"")],
    }
    prewrite = parse_prewrite(binlog_writer.prewrite_value(40, changes))
    first, second = prewrite.mutations
    assert prewrite.schema_version == 40
    assert (first.table_id, second.table_id) == (7, 8)
    assert (first.inserted, first.updated, first.deleted) == ([b"i1", b"i2"], [b"u1"], [b"d1"])
    assert first.sequence.dtype == "uint8"
    assert first.sequence.tolist() == [INSERT, UPDATE, INSERT, DELETE_ROW]
    assert (second.inserted, second.updated, second.deleted) == ([], [], [b""])


def test_no_changes():
    assert parse_prewrite(b"").mutations == ()


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        value(inserted_rows=[b"row"]),
        value(inserted_rows=[b"row"], sequence=[UPDATE]),
        value(inserted_rows=[b"row"], sequence=[INSERT, INSERT]),
        value(inserted_rows=[b"row"], sequence=[INSERT, DELETE_ROW]),
        value(sequence=[binlog_pb2.DeleteID]),
        value(deleted_ids=[1], sequence=[binlog_pb2.DeleteID]),
        value(deleted_pks=[b"pk"], sequence=[binlog_pb2.DeletePK]),
        # Unknown to tipb: a kind in a sequence, a list of a mutation, a field of the value.
        binlog_pb2.PrewriteValue().SerializeToString() + b"\x12\x04\x08\x07\x38\x05",
        b"\x12\x05\x08\x07\x42\x01\x61",
        b"\x1a\x01\x61",
    ],
)
def test_what_is_not_whole_or_not_current(payload):
    with pytest.raises(CodecError, match="prewrite value"):
        parse_prewrite(payload)
