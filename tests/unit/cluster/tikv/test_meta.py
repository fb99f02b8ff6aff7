"""The schema read from a fake TiKV's meta keys, against a model of a cluster with DDL."""

import json

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import CodecError, SchemaFileError, ServiceUnavailableError
from pyspark_theflash.base.types import SchemaVersion, TimeStamp
from pyspark_theflash.cluster.tikv.meta import TiKVMeta
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.schema.meta_key import JOB_HISTORY, hash_field, hash_prefix
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.fake_tikv import FakeTiKV
from tests.support.meta_cluster import (
    ADD_COLUMN,
    CREATE_DATABASE,
    CREATE_TABLE,
    DROP_TABLE,
    RENAME,
    MetaCluster,
    info,
)
from tests.support.percolator import Record
from tests.support.schema import tables_at


def mirror(model: MetaCluster, tikv: FakeTiKV) -> None:
    """Write the model's meta keys, and other keys that a real cluster has."""
    keys = tikv.cluster.tikv.records
    for key, writes in model.keys.items():
        keys[key] = [
            Record("D" if w.value is None else "P", w.start_ts, w.commit_ts, w.value or b"")
            for w in writes
        ]
    other = hash_prefix(b"DB:1") + encode_bytes(b"TID:7")
    keys[other] = [Record("P", 1, 2, b"5000")]
    for number, job in enumerate(model.jobs):
        tables = list(job.tables.values())
        document = {
            "schema_id": job.database_id,
            "schema_name": job.database,
            "binlog": {"SchemaVersion": job.version, "MultipleTableInfos": tables},
        }
        key = hash_prefix(JOB_HISTORY) + encode_bytes(number.to_bytes(8, "big"))
        keys[key] = [Record("P", 1, 2, json.dumps(document).encode())]


def ddl(model: MetaCluster):
    yield model.step(CREATE_DATABASE, database=(1, "db"))
    yield model.step(CREATE_TABLE, [(1, 7, info(7, "t", "a", "b"))])
    yield model.step(CREATE_DATABASE, database=(2, "other"))
    yield model.step(ADD_COLUMN, [(1, 7, info(7, "t", "a", "b", "c!"))], ends=False)
    yield model.step(ADD_COLUMN, [(1, 7, info(7, "t", "a", "b", "c"))])
    yield model.step(CREATE_TABLE, [(1, 9, info(9, "u", "a"))])
    yield model.step(
        RENAME, [(1, 7, None), (2, 7, info(7, "t", "a", "b"))], diff={"old_schema_id": 1}
    )
    yield model.step(DROP_TABLE, [(1, 9, None)])


def test_history(tikv: FakeTiKV, client) -> None:
    model, meta = MetaCluster(), TiKVMeta(client)
    ours = theirs = None
    tikv.cluster.split(hash_prefix(b"DB:2"))
    for ts in ddl(model):
        mirror(model, tikv)
        at = TimeStamp(ts + 5)
        ours = TidbSchemaSource(meta, SystemClock()).read(at, ours)
        theirs = TidbSchemaSource(model, SystemClock()).read(at, theirs)
        assert (ours.events, ours.versions, ours.end_ts) == (
            theirs.events,
            theirs.versions,
            theirs.end_ts,
        )
    assert len(ours.events) > 6
    anew = TidbSchemaSource(meta, SystemClock()).read(at)
    assert [(t.db, t.name) for t in tables_at(anew, at)] == [("other", "t")]


def test_lists_and_jobs(tikv: FakeTiKV, client) -> None:
    model, meta = MetaCluster(), TiKVMeta(client)
    for _ in ddl(model):
        mirror(model, tikv)
        assert sorted(meta.list_databases(), key=lambda db: db.id) == model.list_databases()
    for above in (0, 3, model.version):
        jobs = meta.finished_jobs(SchemaVersion(above))
        assert [(j.version, j.database_id, j.database) for j in jobs] == [
            (j.version, j.database_id, j.database)
            for j in model.finished_jobs(SchemaVersion(above))
        ]


@pytest.mark.parametrize(
    ("prefix", "field"),
    [(b"DBs", b"DB:5"), (b"DB:1", b"Table:7"), (JOB_HISTORY, b"\0" * 8)],
)
def test_strange_values(tikv: FakeTiKV, client, prefix: bytes, field: bytes) -> None:
    model, meta = MetaCluster(), TiKVMeta(client)
    list(ddl(model))
    mirror(model, tikv)
    key = hash_prefix(prefix) + encode_bytes(field)
    tikv.cluster.tikv.records[key] = [Record("P", 1, 2, b"{}")]
    with pytest.raises(SchemaFileError, match="not a"):
        meta.finished_jobs(SchemaVersion(0)) if prefix == JOB_HISTORY else meta.list_databases()


def test_a_cluster_without_a_schema(tikv: FakeTiKV, client) -> None:
    with pytest.raises(ServiceUnavailableError, match="no schema"):
        TidbSchemaSource(TiKVMeta(client), SystemClock()).read(TimeStamp(5))


def test_fields_of_a_hash() -> None:
    prefix = hash_prefix(b"DBs")
    assert hash_field(prefix + encode_bytes(b"DB:1"), prefix) == b"DB:1"
    for bad in (prefix, prefix + encode_bytes(b"DB:1") + b"\0", b"n" + prefix[1:]):
        with pytest.raises(CodecError):
            hash_field(bad + (b"" if len(bad) > len(prefix) else b"x"), prefix)
