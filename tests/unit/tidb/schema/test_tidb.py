"""The schema of a running cluster: complete at first, then continued, up to a safe timestamp."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyspark_theflash.base.errors import (
    NotCaughtUpError,
    SchemaConflictError,
    SchemaFileError,
    UnsupportedError,
)
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp, physical_ms
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt
from pyspark_theflash.tidb.schema.lineage import Lineage, double_writes
from pyspark_theflash.tidb.schema.meta_key import (
    SCHEMA_VERSION_KEY,
    FinishedJob,
    MetaWrite,
    database_key,
    diff_key,
    table_key,
)
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.manual_clock import ManualClock
from tests.support.meta_cluster import (
    ADD_COLUMN,
    CREATE_DATABASE,
    CREATE_TABLE,
    DROP_DATABASE,
    DROP_TABLE,
    EXCHANGE,
    MODIFY_COLUMN,
    RECOVER_DATABASE,
    RENAME,
    REORGANIZE,
    TRUNCATE,
    TRUNCATE_PARTITION,
    MetaCluster,
    info,
)
from tests.support.schema import tables_at

SHOP, ARCHIVE = 1, 2
Shown = list[tuple[int, str, int, tuple[str, ...] | None]]


@pytest.fixture
def cluster() -> MetaCluster:
    """Databases `shop`, with tables `t` (11) and `u` (12), and `archive`, which is empty."""
    made = MetaCluster()
    made.step(CREATE_DATABASE, database=(SHOP, "shop"))
    made.step(CREATE_DATABASE, database=(ARCHIVE, "archive"))
    made.step(CREATE_TABLE, [(SHOP, 11, info(11, "t", "a", "b"))])
    made.step(CREATE_TABLE, [(SHOP, 12, info(12, "u", "a"))])
    return made


def read(
    cluster: MetaCluster, after: SchemaHistory | None = None, at_least: int | None = None
) -> SchemaHistory:
    ts = cluster.tso() if at_least is None else TimeStamp(at_least)
    return TidbSchemaSource(cluster, ManualClock()).read(ts, after)


def shown(history: SchemaHistory, above: int = 0) -> Shown:
    """Return events as (ts, db.name, id, columns); the name is "" if the table left."""
    return [
        (
            e.ts,
            e.table.full_name if e.table else e.db,
            e.table_id,
            tuple(c.name + ("" if c.is_public else "!") for c in e.table.columns)
            if e.table
            else None,
        )
        for e in history.events
        if e.ts > above
    ]


def columns(history: SchemaHistory, table_id: int, version: int) -> list[tuple[int, str]]:
    table = history.table_by_version(TableID(table_id), SchemaVersion(version))
    assert table is not None
    return [(c.id, c.name + ("" if c.is_public else "!")) for c in table.columns]


def test_begins_with_all_tables_at_the_wanted_moment(cluster: MetaCluster) -> None:
    ts = cluster.tso()
    history = read(cluster, at_least=ts)
    assert (history.start_ts, history.end_ts) == (ts, ts)
    assert shown(history) == [(ts, "shop.t", 11, ("a", "b")), (ts, "shop.u", 12, ("a",))]
    assert [v.version for v in history.versions] == [4]


def test_begins_at_the_newest_change_where_that_is_later(cluster: MetaCluster) -> None:
    dropped = cluster.step(DROP_TABLE, [(SHOP, 12, None)])
    history = read(cluster, at_least=5)
    assert history.start_ts == history.end_ts == dropped
    assert [name for _, name, *_ in shown(history)] == ["shop.t"]
    cluster.raise_version()
    history = read(cluster, at_least=5)
    assert history.start_ts == history.versions[0].ts > dropped


def test_rows_of_older_versions_decode_under_the_first_tables(cluster: MetaCluster) -> None:
    history = read(cluster)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b", "c"))])
    history = read(cluster, history)
    assert columns(history, 11, 2) == columns(history, 11, 4) == [(1, "a"), (2, "b")]
    assert columns(history, 11, 5) == [(1, "a"), (2, "b"), (3, "c")]


def test_continues_with_each_state(cluster: MetaCluster) -> None:
    begin = read(cluster)
    first = cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b", "c!"))], ends=False)
    between = read(cluster, begin)
    second = cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b", "c"))])
    history = read(cluster, between)
    assert shown(history, begin.end_ts) == [
        (first, "shop.t", 11, ("a", "b", "c!")),
        (second, "shop.t", 11, ("a", "b", "c")),
    ]
    assert read(cluster, begin).events == history.events
    assert read(cluster, begin).versions == history.versions
    assert begin.extend(between).extend(history) is history


def test_a_look_at_an_unchanged_cluster_is_cheap(cluster: MetaCluster) -> None:
    history = read(cluster)
    cluster.reads = 0
    again = read(cluster, history)
    assert cluster.reads == 2
    assert again.end_ts > history.end_ts
    assert again.events == history.events


@pytest.mark.parametrize(
    ("action", "changes", "diff", "expected"),
    [
        (
            TRUNCATE,
            [(SHOP, 11, None), (SHOP, 21, info(21, "t", "a"))],
            {"old_table_id": 11},
            [("shop", 11, None), ("shop.t", 21, ("a",))],
        ),
        (
            RENAME,
            [(SHOP, 11, None), (ARCHIVE, 11, info(11, "v", "a"))],
            {"old_schema_id": SHOP},
            [("shop", 11, None), ("archive.v", 11, ("a",))],
        ),
        (
            EXCHANGE,
            [(SHOP, 12, info(12, "u", "a")), (SHOP, 11, None), (SHOP, 33, info(33, "t", "a"))],
            {"old_table_id": 11, "affected_options": [{"schema_id": SHOP, "table_id": 12}]},
            [("shop", 11, None), ("shop.u", 12, ("a",)), ("shop.t", 33, ("a",))],
        ),
        (DROP_TABLE, [(SHOP, 12, None)], {}, [("shop", 12, None)]),
    ],
)
def test_tables_that_leave_or_move(
    cluster: MetaCluster, action: int, changes: list, diff: dict, expected: Sequence[tuple]
) -> None:
    begin = read(cluster)
    ts = cluster.step(action, changes, diff=diff)
    history = read(cluster, begin)
    assert shown(history, begin.end_ts) == [(ts, *row) for row in expected]


def test_a_dropped_database_takes_its_tables_with_it(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.step(CREATE_TABLE, [(SHOP, 13, info(13, "w", "a"))])
    cluster.step(
        RENAME, [(SHOP, 12, None), (ARCHIVE, 12, info(12, "u", "a"))], diff={"old_schema_id": SHOP}
    )
    dropped = cluster.step(DROP_DATABASE, database=(SHOP, None))
    history = read(cluster, begin)
    assert shown(history, dropped - 1) == [(dropped, "shop", 11, None), (dropped, "shop", 13, None)]
    assert [t.full_name for t in tables_at(history, history.end_ts)] == ["archive.u"]
    back = [(SHOP, 11, info(11, "t", "a"))]
    options = {"affected_options": [{"schema_id": SHOP, "table_id": 11, "old_table_id": 11}]}
    cluster.step(RECOVER_DATABASE, back, database=(SHOP, "shop"), diff={"table_id": 0} | options)
    again = read(cluster, history)
    assert [t.full_name for t in tables_at(again, again.end_ts)] == ["archive.u", "shop.t"]


def test_a_failed_job_leaves_its_states(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b", "c!"))], ends=False)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b"))])
    history = read(cluster, begin)
    assert columns(history, 11, 5) == [(1, "a"), (2, "b"), (3, "c!")]
    assert columns(history, 11, 6) == [(1, "a"), (2, "b")]


def test_a_version_without_a_diff_is_passed_over_and_met_later(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.raise_version()
    between = read(cluster, begin)
    assert [v.version for v in between.versions] == [4, 5]
    assert shown(between, begin.end_ts) == []
    late = cluster.change(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a"))])
    cluster.raise_version()
    history = read(cluster, between)
    assert shown(history, begin.end_ts) == [(late, "shop.t", 11, ("a",))]
    assert [v.version for v in history.versions] == [4, 5, 6]


@pytest.mark.parametrize(
    "key",
    [SCHEMA_VERSION_KEY, diff_key(SchemaVersion(5)), table_key(SHOP, TableID(11))],
    ids=["version", "diff", "table"],
)
def test_nothing_is_vouched_for_beyond_a_lock(cluster: MetaCluster, key: bytes) -> None:
    begin = read(cluster)
    ts = cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a"))])
    cluster.locks[key] = locked_ts = cluster.tso()
    # A timestamp below the lock does not have to wait.
    assert read(cluster, begin, at_least=locked_ts - 1).end_ts == locked_ts - 1
    wanted = cluster.tso()
    with pytest.raises(NotCaughtUpError) as raised:
        read(cluster, begin, at_least=wanted)
    assert (raised.value.applied, raised.value.wanted) == (locked_ts, wanted)
    patient = ManualClock(lambda _: cluster.locks.clear())
    history = TidbSchemaSource(cluster, patient).read(wanted, begin)
    assert shown(history, begin.end_ts) == [(ts, "shop.t", 11, ("a",))]
    assert history.end_ts == wanted


def test_what_lies_above_a_lock_comes_with_the_next_read(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a"))])
    cluster.locks[table_key(SHOP, TableID(12))] = locked_ts = cluster.tso()
    above = cluster.step(ADD_COLUMN, [(SHOP, 12, info(12, "u", "a", "b"))])
    between = read(cluster, begin, at_least=locked_ts)
    assert between.end_ts == locked_ts
    assert [v.version for v in between.versions] == [4, 5]
    cluster.locks.clear()
    history = read(cluster, between)
    assert shown(history, locked_ts) == [(above, "shop.u", 12, ("a", "b"))]
    assert [v.version for v in history.versions] == [4, 5, 6]


@pytest.mark.parametrize(
    "ddl",
    [
        lambda c: c.step(CREATE_TABLE, [(SHOP, 13, info(13, "w", "a"))]),
        lambda c: c.step(DROP_TABLE, [(SHOP, 12, None)]),
        lambda c: c.step(ADD_COLUMN, [(SHOP, 12, info(12, "u", "a", "b"))]),
        lambda c: c.step(CREATE_DATABASE, database=(3, "new")),
        lambda c: c.step(DROP_DATABASE, database=(ARCHIVE, None)),
    ],
    ids=["create", "drop", "alter", "create database", "drop database"],
)
def test_begins_when_the_server_has_loaded_the_newest_change(
    cluster: MetaCluster, ddl: Callable[[MetaCluster], object]
) -> None:
    cluster.stale = cluster.list_databases()
    ddl(cluster)
    with pytest.raises(NotCaughtUpError):
        read(cluster)

    def load(_: int) -> None:
        cluster.stale = None

    history = TidbSchemaSource(cluster, ManualClock(load)).read(cluster.tso())
    assert shown(history) == shown(read(cluster, at_least=history.start_ts))


def test_a_table_in_the_middle_of_its_drop_does_not_keep_a_history_from_beginning(
    cluster: MetaCluster,
) -> None:
    doomed = info(12, "u", "a", state=2)
    cluster.step(DROP_TABLE, [(SHOP, 12, doomed)], ends=False)
    assert [name for _, name, *_ in shown(read(cluster))] == ["shop.t", "shop.u"]


def test_a_change_during_the_first_look_starts_it_over(cluster: MetaCluster) -> None:
    listed = cluster.list_databases

    def create() -> list:
        listing = listed()
        if cluster.version == 4:
            cluster.step(CREATE_TABLE, [(SHOP, 13, info(13, "w", "a"))])
        return listing

    cluster.list_databases = create  # type: ignore[method-assign]
    history = read(cluster)
    assert [v.version for v in history.versions] == [5]
    assert [name for _, name, *_ in shown(history)] == ["shop.t", "shop.u", "shop.w"]


def test_refuses_another_cluster(cluster: MetaCluster) -> None:
    other = MetaCluster()
    other.step(CREATE_DATABASE, database=(SHOP, "shop"))
    with pytest.raises(SchemaConflictError, match="schema version 4"):
        read(other, read(cluster))
    other.ts += 5
    for _ in range(8):
        other.step(CREATE_DATABASE, database=(SHOP, "shop"))
    with pytest.raises(SchemaConflictError, match="schema version 4"):
        read(other, read(cluster))


def test_refuses_a_cluster_that_was_restored(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.step(62, diff={"table_id": -1, "regenerate_schema_map": True})
    with pytest.raises(UnsupportedError, match=r"version 5: .*FLASHBACK CLUSTER"):
        read(cluster, begin)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (SCHEMA_VERSION_KEY, b"x", "SchemaVersionKey: not a number"),
        (diff_key(SchemaVersion(5)), b"[]", "Diff:5: not a SchemaDiff"),
        (diff_key(SchemaVersion(5)), b"{", "Diff:5: not a SchemaDiff"),
        (diff_key(SchemaVersion(5)), b"{}", "Diff:5: not a SchemaDiff"),
        (table_key(SHOP, TableID(11)), b"{", "Table:11 in shop: not JSON"),
        (table_key(SHOP, TableID(11)), b"{}", "not a TableInfo"),
        (database_key(SHOP), b"7", "DB:1: not a DBInfo"),
    ],
)
def test_refuses_what_is_no_schema(
    cluster: MetaCluster, key: bytes, value: bytes, reason: str
) -> None:
    begin = read(cluster)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a"))])
    cluster.keys[key] = [MetaWrite(w.start_ts, w.commit_ts, value) for w in cluster.keys[key]]
    with pytest.raises(SchemaFileError, match=reason):
        read(cluster, begin)


def test_refuses_a_cluster_without_a_schema() -> None:
    with pytest.raises(SchemaFileError, match="no schema version"):
        read(MetaCluster())


# Effects of garbage collection


def test_the_ends_of_jobs_are_never_lost(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.step(CREATE_TABLE, [(SHOP, 13, info(13, "w", "a"))])
    cluster.step(ADD_COLUMN, [(SHOP, 13, info(13, "w", "a", "b"))])
    cluster.step(
        TRUNCATE, [(SHOP, 13, None), (SHOP, 14, info(14, "w", "a", "b"))], diff={"old_table_id": 13}
    )
    cluster.step(DROP_TABLE, [(SHOP, 14, None)])
    cluster.step(
        RENAME, [(SHOP, 12, None), (ARCHIVE, 12, info(12, "u", "a"))], diff={"old_schema_id": SHOP}
    )
    cluster.step(DROP_DATABASE, database=(SHOP, None))
    whole = read(cluster, begin)
    cluster.collect(cluster.tso())
    assert len(cluster.keys[SCHEMA_VERSION_KEY]) == 1
    history = read(cluster, begin)
    assert shown(history) == shown(whole)
    assert [v.version for v in history.versions] == [v.version for v in whole.versions]
    for version in range(5, 9):
        for table_id in (13, 14):
            assert _columns_or_none(history, table_id, version) == _columns_or_none(
                whole, table_id, version
            )


def _columns_or_none(history: SchemaHistory, table_id: int, version: int) -> object:
    try:
        return columns(history, table_id, version)
    except Exception as error:  # noqa: BLE001 (compared)
        return type(error)


def test_a_lost_state_has_the_columns_of_both_sides(cluster: MetaCluster) -> None:
    """ADD COLUMN d, then MODIFY b, which gets the id of c."""
    begin = read(cluster)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b", "d!"))], ends=False)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b", "d"))])
    cluster.step(12, [(SHOP, 11, info(11, "t", "a", "b", "d", "c-x!"))], ends=False)
    cluster.step(12, [(SHOP, 11, info(11, "t", "a", "c-b", "d"))])
    cluster.collect(cluster.tso())
    history = read(cluster, begin)
    assert columns(history, 11, 5) == [(1, "a"), (2, "b"), (4, "d!")]
    assert columns(history, 11, 6) == [(1, "a"), (2, "b"), (4, "d")]
    assert columns(history, 11, 7) == [(1, "a"), (2, "b"), (4, "d"), (3, "b!")]
    assert columns(history, 11, 8) == [(1, "a"), (3, "b"), (4, "d")]
    table = history.table_by_version(TableID(11), SchemaVersion(7))
    assert table is not None
    offsets = {c.offset for c in table.columns}
    assert offsets == {0, 1, 2, 3}


def test_a_column_that_is_dropped_may_be_missing_in_a_lost_state(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.step(6, [(SHOP, 11, info(11, "t", "a", "b!"))], ends=False)
    cluster.step(6, [(SHOP, 11, info(11, "t", "a"))])
    cluster.collect(cluster.tso())
    assert columns(read(cluster, begin), 11, 5) == [(1, "a"), (2, "b!")]


@pytest.mark.parametrize("collected_state", [None, 1, 2])
@pytest.mark.parametrize("has_rowid", [True, False])
def test_what_reorganize_partition_moves_is_told_where_its_states_are_lost(
    cluster: MetaCluster, collected_state: int | None, has_rowid: bool
) -> None:
    """All three intermediate states are lost, or all but one."""
    cluster.step(CREATE_TABLE, [(SHOP, 13, partitioned([51, 52], has_rowid=has_rowid))])
    history, lost = read(cluster), []
    for state in (1, 2, 3):
        middle = partitioned([51, 52], [53, 54], [52], state, has_rowid=has_rowid)
        at = cluster.step(REORGANIZE, [(SHOP, 13, middle)], ends=False)
        if state == collected_state:
            cluster.collect(cluster.tso())
            history = read(cluster, history)
        else:
            lost.append(at)
    end = cluster.step(REORGANIZE, [(SHOP, 13, partitioned([51, 53, 54], has_rowid=has_rowid))])
    cluster.collect(cluster.tso())
    history = read(cluster, history)
    (move,) = Lineage(history).moves
    assert (move.ts, move.from_ids, move.to_ids) == (end, {52}, {53, 54})
    for at in lost:
        table = history.table_at_commit(TableID(13), at)
        if has_rowid:
            with pytest.raises(UnsupportedError, match="not read in time"):
                double_writes(table)
        else:
            assert double_writes(table) is None


def test_a_partition_that_is_truncated_moves_nothing(cluster: MetaCluster) -> None:
    cluster.step(CREATE_TABLE, [(SHOP, 13, partitioned([51, 52]))])
    begin = read(cluster)
    cluster.step(TRUNCATE_PARTITION, [(SHOP, 13, partitioned([51, 52]))], ends=False)
    cluster.step(TRUNCATE_PARTITION, [(SHOP, 13, partitioned([51, 53]))])
    cluster.collect(cluster.tso())
    assert Lineage(read(cluster, begin)).moves == ()


def partitioned(
    ids: Sequence[int],
    adding: Sequence[int] = (),
    dropping: Sequence[int] = (),
    state: int = 0,
    *,
    has_rowid: bool = False,
) -> dict[str, Any]:
    """Return a TableInfo with a partition `p<id>` for each id."""

    def definitions(some: Sequence[int]) -> list[dict[str, Any]]:
        return [{"id": i, "name": {"O": f"p{i}"}, "less_than": [str(10 * i)]} for i in some]

    partition = {
        "type": 1,
        "expr": "`a`",
        "columns": None,
        "enable": True,
        "definitions": definitions(ids),
        "adding_definitions": definitions(adding),
        "dropping_definitions": definitions(dropping),
        "ddl_state": state,
    }
    return info(13, "p", "a", "b", partition=partition, pk_is_handle=not has_rowid)


def test_what_nothing_tells_is_left_out(cluster: MetaCluster) -> None:
    """A job that failed, and a table that was created and dropped between two reads."""
    begin = read(cluster)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b", "c!"))], ends=False)
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b"))])
    cluster.step(CREATE_DATABASE, database=(9, "brief"), ends=False)
    cluster.step(CREATE_TABLE, [(9, 90, info(90, "x", "a"))], ends=False)
    cluster.step(DROP_DATABASE, database=(9, None), ends=False)
    cluster.collect(cluster.tso())
    history = read(cluster, begin)
    assert columns(history, 11, 5) == [(1, "a"), (2, "b")]
    assert {e.table_id for e in history.events} == {11, 12}


def test_a_column_that_is_renamed_stays_public_in_a_lost_state(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.step(61, [(SHOP, 11, info(11, "t", "a", "b", "d!"))], ends=False)
    cluster.step(61, [(SHOP, 11, info(11, "t", "a", "b-x", "d"))])
    cluster.collect(cluster.tso())
    assert columns(read(cluster, begin), 11, 5) == [(1, "a"), (2, "b"), (4, "d!")]


def test_a_known_version_that_is_lost_before_its_tables_come(cluster: MetaCluster) -> None:
    begin = read(cluster)
    cluster.raise_version()
    between = read(cluster, begin)
    cluster.change(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a"))])
    cluster.raise_version()
    cluster.collect(cluster.tso())
    history = read(cluster, between)
    assert history.versions[:2] == between.versions
    assert [v.version for v in history.versions] == [4, 5, 6]
    assert columns(history, 11, 5) == [(1, "a")]


def test_versions_that_are_lost_begin_with_their_tables(cluster: MetaCluster) -> None:
    begin = read(cluster)
    first = cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a"))])
    cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b"))])
    newest = cluster.keys[SCHEMA_VERSION_KEY][-1].commit_ts
    cluster.collect(cluster.tso())
    assert read(cluster, begin).versions[1:] == (
        SchemaVersionAt(first, SchemaVersion(5)),
        SchemaVersionAt(newest, SchemaVersion(6)),
    )


def test_json_of_the_model_is_what_tidb_would_write(cluster: MetaCluster) -> None:
    (write,) = cluster.keys[diff_key(SchemaVersion(3))]
    assert json.loads(write.value or b"")["table_id"] == 11


def modified(cluster: MetaCluster) -> TimeStamp:
    """MODIFY COLUMN a: column b replaces it. Its job is not among the finished ones yet."""
    filling = info(11, "t", "a", "b!")
    filling["cols"][1]["change_state_info"] = {"relative_col_offset": 0}
    cluster.step(MODIFY_COLUMN, [(SHOP, 11, filling)], ends=False)
    return cluster.step(MODIFY_COLUMN, [(SHOP, 11, info(11, "t", "b-a"))], ends=False)


def session_of(history: SchemaHistory, ts: TimeStamp) -> ReorgSession | None:
    return history.table_by_name("shop.t", ts).columns[0].session


def test_the_session_of_a_changed_column_is_waited_for(cluster: MetaCluster) -> None:
    history = read(cluster)
    commit_ts = modified(cluster)
    session = ReorgSession("Asia/Kolkata", 0, 7, 7, 1 << 32)
    job = FinishedJob(SchemaVersion(cluster.version), SHOP, "shop", {}, session)
    clock = ManualClock(lambda _: cluster.jobs.append(job))
    at_least = cluster.tso()
    source = TidbSchemaSource(cluster, clock)
    updated = source.read(at_least, history)
    assert clock.now_ms == 1_000_050
    assert session_of(updated, at_least) == ReorgSession(
        "Asia/Kolkata", 0, 7, physical_ms(commit_ts), 1 << 32
    )


def test_a_job_that_never_turns_up_is_not_waited_for_for_ever(cluster: MetaCluster) -> None:
    history = read(cluster)
    modified(cluster)
    clock = ManualClock()
    at_least = cluster.tso()
    updated = TidbSchemaSource(cluster, clock).read(at_least, history)
    assert clock.now_ms == 1_020_000
    assert updated.end_ts >= at_least
    assert session_of(updated, at_least) is None
