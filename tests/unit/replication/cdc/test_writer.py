"""The writer of a change feed: publications, tables that appear, restarts and refusals."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from pyspark_theflash.base.errors import (
    ClusterMismatchError,
    FeedConflictError,
    NotCaughtUpError,
    TableNotLoadedError,
    TableSetAsideError,
    UnsupportedError,
)
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.cdc import writer as writer_module
from pyspark_theflash.replication.cdc.writer import ChangeWriter
from pyspark_theflash.replication.load.scan import record_keys
from pyspark_theflash.replication.upkeep.orphans import skip
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.store.command import ResolveOrder
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.schema.history import TableEvent
from pyspark_theflash.tidb.schema.model import (
    STATE_WRITE_REORGANIZATION,
    PartitionType,
    TableInfo,
    parse_table_info,
)
from tests.support.change_log import Change, ChangeLog, FakeChangeFeed, GrowingSchema
from tests.support.change_store import CLUSTER, history
from tests.support.row_oracle import encode_row_v2

START = TimeStamp(100)
BIGINT, VARCHAR = FieldType(MySQLType.LONGLONG), FieldType(MySQLType.VARCHAR, charset="utf8mb4")
TYPES = {2: BIGINT, 3: BIGINT, 4: VARCHAR}


def table(table_id: int, name: str, *columns: dict[str, Any]) -> TableInfo:
    return table_info(table_id, name, [id_column(), column("v", MySQLType.LONGLONG), *columns])


def event(ts: int, info: TableInfo) -> TableEvent:
    return TableEvent(TimeStamp(ts), info.db, info.id, info)


def key(physical_id: int, handle: int) -> bytes:
    one, other = ((n + 2**63).to_bytes(8, "big") for n in (physical_id, handle))
    return b"t" + one + b"_r" + other


def row(**values: Any) -> bytes:
    return encode_row_v2({int(k[1:]): v for k, v in values.items()}, TYPES)


T = table(1, "d.t")


def test_versions_are_readable_at_their_commits(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T))
    log.write(200, key(1, 7), row(c2=1))
    log.write(300, key(1, 7), row(c2=2))
    log.write(400, key(1, 7), None)
    store.reach(500)
    rows = {ts: store.rows("d.t", ts) for ts in (150, 200, 300, 399, 400, 500)}
    assert rows == {150: [], 200: [(7, 1)], 300: [(7, 2)], 399: [(7, 2)], 400: [], 500: []}
    with pytest.raises(NotCaughtUpError):
        store.rows("d.t", 501)
    assert store.writer.report.transactions == 3


def test_nothing_is_published_above_the_frontier(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T))
    log.write(200, key(1, 7), row(c2=1))
    log.changes.append(Change(300, 250, key(1, 8), row(c2=2)))
    store.reach(299)
    assert store.writer.resolved_ts == 299
    assert store.writer.report.rows == 1
    store.reach(300)
    assert store.rows("d.t", 299) == [(7, 1)]
    assert store.rows("d.t", 300) == [(7, 1), (8, 2)]


def test_until_ts_is_not_passed(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T))
    log.write(200, key(1, 7), row(c2=1))
    log.write(300, key(1, 8), row(c2=1))
    for _ in range(20):
        store.writer.poll(until_ts=TimeStamp(250))
    assert store.writer.resolved_ts == 250
    assert store.writer.report.rows == 1


def test_a_table_created_later_is_subscribed_before_the_frontier_passes(
    stores: Any, log: ChangeLog
) -> None:
    other = table(2, "d.new")
    store = stores(event(100, T), event(300, other))
    log.write(200, key(1, 7), row(c2=1))
    log.write(310, key(2, 1), row(c2=5))
    log.write(320, key(1, 7), row(c2=6))
    store.reach(400)
    assert store.rows("d.new", 310) == [(1, 5)]
    span, checkpoint_ts = store.feed.subscribed[-1]
    assert span == record_keys(PhysicalTableID(2))
    assert checkpoint_ts < 300


def test_a_dropped_table_is_unsubscribed_and_subscribed_again_when_recovered(
    stores: Any, log: ChangeLog
) -> None:
    gone = TableEvent(TimeStamp(300), "d", T.id, None)
    store = stores(event(100, T), gone, event(500, T))
    span = record_keys(PhysicalTableID(1))
    log.write(200, key(1, 7), row(c2=1))
    store.reach(250)
    assert span in store.feed.spans
    store.reach(310)
    store.reach(320)
    assert span not in store.feed.spans
    log.write(510, key(1, 8), row(c2=2))
    store.reach(600)
    assert store.rows("d.t", 550) == [(7, 1), (8, 2)]


def test_only_the_scope_is_subscribed(stores: Any, log: ChangeLog) -> None:
    system = table(3, "mysql.user")
    view = parse_table_info("d", {"id": 4, "name": {"O": "v"}, "cols": [], "pk_is_handle": False})
    events = event(100, T), event(100, table(2, "d.no")), event(100, system)
    store = stores(
        *events, event(100, replace(view, is_view=True)), scope=TableScope(("d.t", "d.v"))
    )
    log.write(200, key(1, 7), row(c2=1))
    store.reach(300)
    spans = [span for span in store.feed.spans if span.start[:1] == b"t"]
    assert spans == [record_keys(PhysicalTableID(1))]


def test_a_store_without_tables_advances(stores: Any, log: ChangeLog) -> None:
    store = stores(event(300, T))
    store.reach(200)
    log.write(400, key(1, 7), row(c2=1))
    store.reach(500)
    assert store.rows("d.t", 500) == [(7, 1)]


@pytest.mark.parametrize(("seed", "end_ts"), [(0, 160), *((seed, 250) for seed in range(3))])
def test_kills_lose_nothing(
    seed: int, end_ts: int, stores: Any, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BATCH_BYTES", 400)
    rng = random.Random(seed)
    store, expected = stores(event(100, T)), dict[int, int]()
    truth = {}
    for ts in range(110, end_ts):
        handle, value = rng.randint(1, 20), rng.randint(1, 1000)
        is_delete = handle in expected and rng.random() < 0.3
        log.write(ts, key(1, handle), None if is_delete else row(c2=value))
        expected.pop(handle, None)
        if not is_delete:
            expected[handle] = value
        truth[ts] = sorted(expected.items())
        if rng.random() < 0.1:
            store.writer.poll()
        if rng.random() < 0.03:
            store.kill()
            store.start()
    store.reach(end_ts - 1)
    assert {ts: store.rows("d.t", ts) for ts in truth} == truth


@pytest.mark.parametrize(("seed", "end_ts"), [(0, 130), (0, 170), (1, 170)])
def test_large_transactions_are_published_as_a_whole(
    seed: int, end_ts: int, stores: Any, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BATCH_BYTES", 300)
    rng = random.Random(seed)
    store, expected = stores(event(100, T), event(100, table(2, "d.u"))), dict[int, int]()
    store.feed.large_rows = 10
    truth = {}
    for ts in range(110, end_ts, 2):
        for handle in rng.sample(range(40), rng.choice([1, 2, 12, 20])):
            expected[handle] = ts
            for table_id in (1, 2):
                log.changes.append(Change(ts, ts - 1, key(table_id, handle), row(c2=ts)))
        truth[ts] = sorted(expected.items())
        if rng.random() < 0.2:
            store.reach(ts)
    before = store.writer.report.publications
    store.reach(end_ts)
    assert store.writer.report.publications > before
    for number, name in enumerate(("d.t", "d.u"), 1):
        columns = store.writer.state.columns.of(PhysicalTableID(number))
        store.engine.compact(PhysicalTableID(number), columns, everything=True)
        assert {ts: store.rows(name, ts) for ts in truth} == truth
    assert list(store.engine.check(store.engine.read([]))) == []


def test_changes_of_a_long_time_are_taken_in_steps(
    stores: Any, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("STEP", 10), ("STEP_MIN", 1), ("STEP_BYTES", 500)):
        monkeypatch.setattr(writer_module, name, value)
    store = stores(event(100, T))
    for ts in range(110, 900):
        log.write(ts, key(1, ts % 7), row(c2=ts))
    steps = []
    while store.writer.resolved_ts < 899:
        store.writer.poll()
        steps.append(store.writer.report.rows)
    assert len(steps) > 20
    assert store.rows("d.t", 500) == sorted((ts % 7, ts) for ts in range(494, 501))


def test_tables_without_a_base_are_refused(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T), event(200, table(2, "d.new")), assume_empty=[])
    store.reach(300)
    with pytest.raises(TableNotLoadedError):
        store.rows("d.t", 300)
    assert store.rows("d.new", 300) == []


def test_a_restored_table_with_unknown_rows_is_refused(stores: Any, log: ChangeLog) -> None:
    """It was dropped before the store began, so its rows are not in the stream."""
    store = stores(event(100, T), event(200, table(2, "d.old")), assume_empty=["d.t"])
    store.schema.restored.append(TimeStamp(200))
    log.write(210, key(2, 1), row(c2=1))
    store.reach(300)
    with pytest.raises(TableNotLoadedError, match="recovered"):
        store.rows("d.old", 300)
    assert store.rows("d.t", 300) == []


# -- schema changes


def test_rows_are_decoded_under_the_definition_at_their_commit(stores: Any, log: ChangeLog) -> None:
    added = table(1, "d.t", column("w", MySQLType.LONGLONG, origin_default="9"))
    store = stores(event(100, T), event(300, added))
    log.write(200, key(1, 1), row(c2=1))
    log.write(310, key(1, 2), row(c2=2, c3=3))
    log.write(320, key(1, 3), row(c2=2))
    store.reach(400)
    assert store.rows("d.t", 250) == [(1, 1)]
    assert store.rows("d.t", 400) == [(1, 1, 9), (2, 2, 3), (3, 2, 9)]


def modified() -> list[TableEvent]:
    """MODIFY COLUMN v to a string: column 4 replaces column 2 at 500."""
    text = column("_Col$_v_0", MySQLType.VARCHAR, id=4, offset=2, hidden=True, state=3)
    during = table(1, "d.t", text | {"change_state_info": {"relative_col_offset": 1}})
    final = column("v", MySQLType.VARCHAR, id=4, offset=1)
    after = table_info(1, "d.t", [id_column(), final])
    return [event(100, T), event(300, during), event(500, after)]


@pytest.mark.parametrize("backfilled", [(), (1,), (1, 2, 3)])
@pytest.mark.parametrize("is_compacted", [False, True])
def test_rows_that_modify_column_rewrites_may_come_or_not(
    backfilled: tuple[int, ...], is_compacted: bool, stores: Any, log: ChangeLog
) -> None:
    """TiKV 6.5 sends the rewritten rows; later versions leave them out."""
    store = stores(*modified())
    for handle in (1, 2, 3):
        log.write(200 + handle, key(1, handle), row(c2=10 * handle))
    for handle in backfilled:
        log.write(400 + handle, key(1, handle), row(c2=10 * handle, c4=str(10 * handle)))
    log.write(450, key(1, 3), row(c2=77, c4="77"))
    log.write(510, key(1, 4), row(c4="new"))
    store.reach(520)
    log.write(530, key(1, 1), row(c4="x"))
    store.reach(600)
    if is_compacted:
        columns = store.writer.state.columns.of(PhysicalTableID(1))
        store.engine.compact(PhysicalTableID(1), columns, everything=True)
    assert store.rows("d.t", 420) == [(1, 10), (2, 20), (3, 30)]
    assert store.rows("d.t", 505) == [(1, "10"), (2, "20"), (3, "77")]
    assert store.rows("d.t", 600) == [(1, "x"), (2, "20"), (3, "77"), (4, "new")]


WHOLE = {"id": 11, "name": {"O": "p"}, "less_than": ["MAXVALUE"]}
HALVES = [
    {"id": 12, "name": {"O": "p0"}, "less_than": ["10"]},
    {"id": 13, "name": {"O": "p1"}, "less_than": ["MAXVALUE"]},
]


def partitioned(*definitions: dict[str, Any], **changing: Any) -> TableInfo:
    info = json.loads(T.json_text)
    partition = {"enable": True, "type": int(PartitionType.RANGE), "expr": "`id`", "columns": []}
    info["partition"] = partition | {"definitions": [*definitions]} | changing
    return parse_table_info("d", info)


def test_reorganized_partitions_come_in_the_stream(stores: Any, log: ChangeLog) -> None:
    """Copied rows and double writes are published once, under the ids in their keys."""
    changing = {"adding_definitions": HALVES, "dropping_definitions": [WHOLE]}
    during = partitioned(WHOLE, **changing, ddl_state=STATE_WRITE_REORGANIZATION)
    infos = partitioned(WHOLE), during, partitioned(*HALVES)
    store = stores(*(event(ts, i) for ts, i in zip((100, 300, 500), infos, strict=True)))
    log.write(200, key(11, 1), row(c2=1))
    log.write(210, key(11, 20), row(c2=2))
    store.reach(250)
    log.write(310, key(11, 21), row(c2=3))  # written twice
    log.write(310, key(13, 21), row(c2=3))
    log.write(320, key(12, 1), row(c2=1))  # copied
    log.write(330, key(13, 20), row(c2=2))
    log.write(340, key(11, 1), None)
    log.write(340, key(12, 1), None)
    log.write(510, key(12, 2), row(c2=4))
    store.reach(600)
    assert store.rows("d.t", 335) == [(1, 1), (20, 2), (21, 3)]
    assert store.rows("d.t", 499) == store.rows("d.t", 500) == [(20, 2), (21, 3)]
    assert store.rows("d.t", 600) == [(2, 4), (20, 2), (21, 3)]


def test_exchanged_partition(stores: Any, log: ChangeLog) -> None:
    plain = table(21, "d.plain")
    store = stores(
        event(100, partitioned(WHOLE)),
        event(100, plain),
        event(300, partitioned(WHOLE | {"id": 21})),
        TableEvent(TimeStamp(300), "d", TableID(21), None),
        event(300, table(11, "d.plain")),
    )
    log.write(200, key(11, 1), row(c2=1))
    log.write(200, key(21, 2), row(c2=2))
    log.write(310, key(11, 3), row(c2=3))
    store.reach(400)
    assert store.rows("d.t", 299) == [(1, 1)]
    assert store.rows("d.t", 400) == [(2, 2)]
    assert store.rows("d.plain", 400) == [(1, 1), (3, 3)]


# -- refusals


def test_late_rows_set_their_table_aside(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T), event(100, table(2, "d.other")))
    log.write(200, key(1, 7), row(c2=1))
    store.reach(300)
    store.feed.late = [Change(250, 240, key(1, 9), row(c2=5))]
    log.write(310, key(2, 1), row(c2=2))
    store.reach(400)
    assert store.rows("d.t", 249) == [(7, 1)]
    with pytest.raises(TableSetAsideError, match="import"):
        store.rows("d.t", 400)
    assert store.rows("d.other", 400) == [(1, 2)]
    store.kill()
    store.start()
    with pytest.raises(TableSetAsideError, match="import"):
        store.rows("d.t", 250)


def test_a_table_that_cannot_be_decoded_is_set_aside_alone(
    stores: Any, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = writer_module.decode_versions

    def failing(physical_id: PhysicalTableID, *arguments: Any) -> Any:
        if physical_id == 2:
            raise UnsupportedError("type NULL", "column d.u.v")
        return decode(physical_id, *arguments)

    monkeypatch.setattr(writer_module, "decode_versions", failing)
    store = stores(event(100, T), event(100, table(2, "d.u")))
    log.write(200, key(1, 1), row(c2=1))
    log.write(210, key(2, 1), row(c2=1))
    store.reach(300)
    assert store.rows("d.t", 300) == [(1, 1)]
    assert store.rows("d.u", 209) == []
    with pytest.raises(TableSetAsideError, match="type NULL"):
        store.rows("d.u", 210)


def test_a_binlog_does_not_continue_a_change_feed(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T))
    store.reach(200)
    with pytest.raises(FeedConflictError, match="change feed"):
        Writer(store.engine, GrowingSchema(history(event(100, T))))


def test_no_transaction_of_a_change_feed_is_skipped(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T))
    store.reach(200)
    order = ResolveOrder(TimeStamp(150), TimeStamp(0))
    with pytest.raises(FeedConflictError, match="change feed"):
        skip(order, store.engine, store.writer.state)


def test_a_change_feed_does_not_continue_a_binlog(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T))
    schema = GrowingSchema(history(event(100, T)))
    for position in ("binlog-0001:17", "tikv:8"):
        progress = Progress(START, TimeStamp(300), position).to_record()
        store.engine.publish(
            writer_module.Publication((), writer_module.ManifestChange([progress]))
        )
        error = FeedConflictError if ":17" in position else ClusterMismatchError
        with pytest.raises(error):
            ChangeWriter(store.engine, FakeChangeFeed(log), schema, CLUSTER)
    assert Progress.of(store.engine.read([PROGRESS_KIND])) is not None


def test_a_table_that_tidb_fills_by_an_import_is_set_aside(stores: Any, log: ChangeLog) -> None:
    def mode(info: TableInfo, number: int) -> TableInfo:
        return parse_table_info("d", json.loads(info.json_text) | {"mode": number})

    other, restored = table(2, "d.other"), table(3, "d.restored")
    store = stores(
        event(100, T),
        event(100, mode(other, 1)),
        event(300, mode(T, 1)),
        event(350, mode(restored, 2)),
        event(400, T),
    )
    log.write(200, key(1, 7), row(c2=1))
    store.reach(299)
    assert store.rows("d.t", 299) == [(7, 1)]
    with pytest.raises(TableSetAsideError, match="IMPORT INTO or a restore"):
        store.rows("d.other", 299)
    store.reach(500)
    assert store.rows("d.t", 299) == [(7, 1)]
    for name, ts in (("d.t", 300), ("d.t", 500), ("d.restored", 500)):
        with pytest.raises(TableSetAsideError) as caught:
            store.rows(name, ts)
        assert "TiKV's change feed does not have the rows" in caught.value.reason


def test_a_table_set_aside_at_once(stores: Any, log: ChangeLog) -> None:
    store = stores(event(100, T))
    log.write(200, key(1, 7), row(c2=1))
    store.reach(300)
    store.writer.set_aside("d.t", {PhysicalTableID(1)}, TimeStamp(250), "it differs")
    assert store.rows("d.t", 249) == [(7, 1)]
    for _ in range(2):
        with pytest.raises(TableSetAsideError, match="it differs"):
            store.rows("d.t", 300)
        store.kill()
        store.start()
