import pytest

from pyspark_theflash.base.errors import BinlogCorruptionError, UnsupportedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.source.event import DdlInfo, Entity, EntityKind
from pyspark_theflash.replication.source.wire import decode_entities, encode_heartbeat, is_probe
from pyspark_theflash.tidb.protocol._generated.tipb import binlog_pb2
from tests.support import binlog_writer


def decode(payload):
    (entity,) = decode_entities(payload, "f", 9)
    return entity


def entity(kind, start_ts, commit_ts=0, payload=b"", ddl=None, primary=b""):
    return Entity(kind, start_ts, commit_ts, payload, ddl, "f", 9, primary)


# Captured from TiDB 6.6: CREATE DATABASE, its prewrite and its commit.
CAPTURED_PREWRITE = bytes.fromhex(
    "0800108f80e0b09680fdc3061800221b6d4442730000000000fa000000000000006844423a3834000000fc"
    "32154352454154452044415441424153452060626c603b38554005"
)
CAPTURED_COMMIT = bytes.fromhex(
    "0801108f80e0b09680fdc306189280e0b09680fdc306221b6d4442730000000000fa000000000000006844423a"
    "3834000000fc32154352454154452044415441424153452060626c603b38554005"
)


def test_captured_messages():
    ddl = DdlInfo("CREATE DATABASE `bl`;", job_id=85, schema_state=5)
    start_ts, commit_ts = 470612972928499727, 470612972928499730
    primary = b"mDBs\0\0\0\0\0\xfa\0\0\0\0\0\0\0hDB:84\0\0\0\xfc"
    prewrite = entity(EntityKind.PREWRITE, start_ts, ddl=ddl, primary=primary)
    assert decode(CAPTURED_PREWRITE) == prewrite
    assert decode(CAPTURED_COMMIT) == entity(EntityKind.COMMIT, start_ts, commit_ts, ddl=ddl)


def test_every_kind():
    prewrite = decode(binlog_writer.prewrite(5, b"value"))
    assert prewrite == entity(EntityKind.PREWRITE, 5, payload=b"value")
    assert decode(binlog_writer.commit(5, 8)) == entity(EntityKind.COMMIT, 5, 8)
    assert decode(binlog_writer.rollback(5)) == entity(EntityKind.ROLLBACK, 5)
    assert decode(binlog_writer.heartbeat(7)) == entity(EntityKind.ROLLBACK, 7, 7)


def test_commit_with_its_prewrite_in_it():
    """As a pump sends it to a drainer."""
    prewrite = entity(EntityKind.PREWRITE, 5, payload=b"value")
    commit = entity(EntityKind.COMMIT, 5, 8)
    message = binlog_writer.merged(5, 8, b"value")
    assert decode_entities(message, "f", 9) == (prewrite, commit)
    assert decode_entities(message, "f", 9, merged=True) == (prewrite, commit)


def test_commit_of_a_ddl_job():
    """It is the same with and without its prewrite; the stream determines which it is."""
    ddl = DdlInfo("CREATE DATABASE `bl`;", job_id=85, schema_state=5)
    prewrite, commit = decode_entities(CAPTURED_COMMIT, "f", 9, merged=True)
    assert prewrite == decode(CAPTURED_PREWRITE)
    assert commit == decode(CAPTURED_COMMIT)
    assert (prewrite.ddl, commit.ddl) == (ddl, ddl)


def test_commit_of_nothing_in_a_merged_stream():
    heartbeat = encode_heartbeat(TimeStamp(2**63 + 7))
    (decoded,) = decode_entities(heartbeat, "f", 9, merged=True)
    assert decoded == entity(EntityKind.COMMIT, 2**63 + 7, 2**63 + 7)
    assert len(decode_entities(binlog_writer.commit(5, 8), "f", 9, merged=True)) == 2
    assert len(decode_entities(binlog_writer.rollback(5), "f", 9, merged=True)) == 1


def test_probe():
    assert is_probe(b"")
    assert is_probe(binlog_writer.prewrite(0))
    assert not is_probe(binlog_writer.prewrite(0, b"value"))
    assert not is_probe(binlog_writer.prewrite(1))
    assert not is_probe(b"\xff")


def test_timestamps_are_unsigned():
    high = 2**64 - 2
    message = decode(binlog_writer.commit(high, high + 1))
    assert (message.start_ts, message.commit_ts) == (high, high + 1)


def test_query_of_another_charset():
    message = binlog_pb2.Binlog(tp=0, start_ts=1, ddl_query=b"create table \xb1\xed", ddl_job_id=3)
    assert decode(message.SerializeToString()).ddl.query == "create table ��"


@pytest.mark.parametrize("kind", [3, 4])
def test_obsolete_kinds(kind):
    message = binlog_pb2.Binlog(tp=kind, start_ts=1, commit_ts=2).SerializeToString()
    with pytest.raises(UnsupportedError, match=f"f at byte 9: a binlog message of type {kind}"):
        decode(message)


def test_kind_that_tipb_does_not_know():
    with pytest.raises(UnsupportedError):
        decode(b"\x08\x07" + binlog_writer.commit(1, 2)[2:])


def test_kind_left_out_is_a_prewrite():
    assert decode(binlog_writer.prewrite(5)[2:]).kind is EntityKind.PREWRITE


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        CAPTURED_COMMIT[:-1],
        binlog_writer.prewrite(0),
        binlog_writer.commit(5, 4),
        binlog_writer.commit(5, 0),
    ],
)
def test_garbage(payload):
    with pytest.raises(BinlogCorruptionError) as caught:
        decode(payload)
    assert (caught.value.file, caught.value.offset) == ("f", 9)


def test_field_numbers_are_tipbs():
    numbers = {
        f"{message.name}.{field.name}": field.number
        for message in binlog_pb2.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    assert numbers == {
        "TableMutation.table_id": 1,
        "TableMutation.inserted_rows": 2,
        "TableMutation.updated_rows": 3,
        "TableMutation.deleted_ids": 4,
        "TableMutation.deleted_pks": 5,
        "TableMutation.deleted_rows": 6,
        "TableMutation.sequence": 7,
        "PrewriteValue.schema_version": 1,
        "PrewriteValue.mutations": 2,
        "Binlog.tp": 1,
        "Binlog.start_ts": 2,
        "Binlog.commit_ts": 3,
        "Binlog.prewrite_key": 4,
        "Binlog.prewrite_value": 5,
        "Binlog.ddl_query": 6,
        "Binlog.ddl_job_id": 7,
        "Binlog.ddl_schema_state": 8,
    }
    assert binlog_pb2.BinlogType.items() == [
        ("Prewrite", 0),
        ("Commit", 1),
        ("Rollback", 2),
        ("PreDDL", 3),
        ("PostDDL", 4),
    ]
    assert binlog_pb2.MutationType.items() == [
        ("Insert", 0),
        ("Update", 1),
        ("DeleteID", 2),
        ("DeletePK", 3),
        ("DeleteRow", 4),
    ]
