"""First loads, from a fake TiKV."""

import json
from contextlib import closing

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import (
    CodecError,
    GCBarrierLostError,
    LoadUnfinishedError,
    TableNotReplicatedError,
    TheFlashError,
    TiKVRefusedError,
)
from pyspark_theflash.cli.main import main
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.load import reading as reading_module
from pyspark_theflash.replication.load.load import FirstLoad
from pyspark_theflash.replication.load.scan import ClusterAddress, PieceReader, decode_handles
from pyspark_theflash.replication.load.verify import TableCheck
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.load import LOAD_KIND, check_loaded, stripes_of
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto import errorpb_pb2
from pyspark_theflash.tidb.schema.model import parse_table_info
from tests.support.fake_tikv import CLUSTER, FakeTiKV
from tests.support.tls import tls
from tests.unit.replication.load.conftest import (
    CLOCK,
    FS,
    TABLES,
    expected,
    filled,
    first_load,
    history,
    key,
    row,
)


def rows_of(path, table):
    with open_snapshot(path) as snapshot:
        return {r["id"]: r["v"] for r in pa.table(snapshot.reader(table)).to_pylist()}


def test_all_rows_at_one_timestamp(tikv, client, engine, tmp_path):
    ts = filled(tikv)
    load = first_load(engine, client, tikv, processes=2)
    load.begin(history(ts), TableScope(("shop.*",)))
    seen = []
    load.run(lambda report: seen.append(report.share))
    assert load.report.share == pytest.approx(1.0)
    assert seen == sorted(seen)
    load.end()
    view = engine.read([PROGRESS_KIND, LOAD_KIND])
    assert Progress.of(view) == Progress(ts, ts, f"tikv:{CLUSTER}")
    assert not view.of_kind(LOAD_KIND)
    assert load.report.rows == len(expected()) + 1
    assert rows_of(tmp_path / "store", "shop.a") == expected()
    assert rows_of(tmp_path / "store", "shop.b") == {7: "b"}
    assert rows_of(tmp_path / "store", "shop.empty") == {}
    with pytest.raises(TableNotReplicatedError):
        rows_of(tmp_path / "store", "other.c")


def test_a_load_by_tls(engine, tmp_path):
    """Its processes have the certificate, too."""
    with (
        FakeTiKV(tls("server")) as fake,
        PDClient([fake.pd.address], tls("client"), clock=CLOCK) as pd,
        TiKVClient(pd, tls("client"), clock=CLOCK) as client,
    ):
        ts, cluster = filled(fake), ClusterAddress((fake.pd.address,), tls("client"))
        load = FirstLoad(engine, client, cluster, CLUSTER, clock=CLOCK, processes=1)
        load.begin(history(ts), TableScope(("shop.*",)))
        load.run(lambda _: None)
        load.end()
        assert rows_of(tmp_path / "store", "shop.a") == expected()
        with open_snapshot(tmp_path / "store") as snapshot:
            assert list(TableCheck(snapshot, client, snapshot.table("shop.a")).run()) == []


def test_an_interrupted_load_continues(tikv, client, engine, tmp_path, monkeypatch):
    ts = filled(tikv)
    monkeypatch.setattr(reading_module, "_PIECE_BYTES_MAX", 2000)
    first_load(engine, client, tikv, processes=1).begin(history(ts), TableScope())
    rounds, published = 0, 0
    while True:
        rounds += 1
        load = first_load(engine, client, tikv, processes=1)

        def stop(report):
            if report.rows > 60:
                raise GCBarrierLostError("theflash-1", 1, 2)

        try:
            load.run(stop)
        except GCBarrierLostError:
            view = engine.read([PROGRESS_KIND, LOAD_KIND])
            assert Progress.of(view) is None
            published += load.report.rows
            assert sum(stripe.rows for stripe in stripes_of(view)) == published
            with pytest.raises(LoadUnfinishedError):
                check_loaded(view)
            with pytest.raises(TheFlashError):
                rows_of(tmp_path / "store", "shop.a")
        else:
            break
    load.end()
    assert rounds >= 3
    assert rows_of(tmp_path / "store", "shop.a") == expected()
    assert rows_of(tmp_path / "store", "other.c") == {1: "c"}


def test_a_store_that_is_not_loaded_is_not_written(tikv, client, tmp_path, capsys):
    path = tmp_path / "store"
    identity = registry.create(path, registry.MAGIC, FS)
    with closing(registry.open_engine(path, identity, FS, CLOCK)) as engine:
        first_load(engine, client, tikv).begin(history(filled(tikv)), TableScope())
    source = ["--source", f"tikv:{tikv.pd.address}", "--schema", f"tikv:{tikv.pd.address}"]
    assert main(["writer", str(path), *source]) == 4
    assert "LoadUnfinishedError: the first load of this store" in capsys.readouterr().err


def test_no_tables(tikv, client, engine, tmp_path):
    load = first_load(engine, client, tikv)
    load.begin(history(filled(tikv)), TableScope(("none.*",)))
    load.run(lambda _: None)
    load.end()
    with open_snapshot(tmp_path / "store") as snapshot:
        assert snapshot.tables() == []


def test_errors_that_pass_are_retried_and_others_are_raised(tikv, client, engine, tmp_path, caplog):
    ts = filled(tikv)
    first_load(engine, client, tikv).begin(history(ts), TableScope())
    names = []

    def fail(name):
        names.append(name)
        if len(names) == 2:
            tikv.failures = [grpc.StatusCode.PERMISSION_DENIED]

    tikv.before = fail
    with pytest.raises(TiKVRefusedError, match="PERMISSION_DENIED"):
        first_load(engine, client, tikv, processes=1).run(lambda _: None)
    tikv.before = lambda _: None
    tikv.faults = [errorpb_pb2.Error(server_is_busy=errorpb_pb2.ServerIsBusy())] * 3
    load = first_load(engine, client, tikv, processes=1)
    load.run(lambda _: None)
    load.end()
    assert rows_of(tmp_path / "store", "shop.a") == expected()


def test_partitions_that_ddl_is_filling_are_loaded(client, engine, tikv):
    definitions = [{"id": 31, "name": {"O": "p"}, "less_than": ["5"]}]
    partition = {"type": 1, "expr": "`id`", "enable": True, "definitions": definitions}
    info = json.loads(TABLES[0].json_text)
    info["partition"] = partition | {"adding_definitions": [definitions[0] | {"id": 32}]}
    table = parse_table_info("shop", info)
    keys = {bytes(encode_record_key(i, n)): row(f"{i}") for i in (31, 32) for n in range(3)}
    ts = tikv.put(keys)
    load = first_load(engine, client, tikv)
    load.begin(history(ts, [table]), TableScope())
    load.run(lambda _: None)
    assert load.report.rows == 6
    assert engine.tables(engine.read([])) == [31, 32]


def test_large_rows_and_pieces(tikv, client):
    a, b, *_ = TABLES
    texts = {n: "x" * (n % 7 * 3000) for n in range(60)}
    ts = tikv.put({key(a, n): row(text) for n, text in texts.items()} | {key(b, 1): row("b")})
    tikv.page = 4
    reader = PieceReader(client, {t.id: t for t in (a, b)}, ts, 100_000)
    start, end, rows, pieces = RawKey(b"t"), RawKey(b"u"), {}, 0
    while start < end:
        piece = reader.read(start, end)
        assert piece.size_bytes < 150_000
        for versions in piece.versions():
            batch = versions.batch
            rows |= {
                (versions.physical_id, handle): text
                for handle, text in zip(
                    batch["_handle"].to_pylist(), batch["c2"].to_pylist(), strict=True
                )
            }
        start, pieces = piece.next, pieces + 1
    assert rows == {(a.id, n): text for n, text in texts.items()} | {(b.id, 1): "b"}
    assert pieces > 4


def test_handles_of_keys():
    numbers = [-(2**63), -1, 0, 7, 2**63 - 1]
    keys = pa.array([bytes(encode_record_key(9, n)) for n in numbers])
    assert decode_handles(keys[1:], is_common=False).to_pylist() == numbers[1:]
    handles = [b"\x01abcdefgh", b"\x01" + b"x" * 300, b"\x03" + bytes(8)]
    keys = pa.array([bytes(encode_record_key(9, handle)) for handle in handles])
    assert decode_handles(keys, is_common=True).to_pylist() == handles
    assert decode_handles(keys[1:], is_common=True).to_pylist() == handles[1:]
    with pytest.raises(CodecError):
        decode_handles(keys, is_common=False)
