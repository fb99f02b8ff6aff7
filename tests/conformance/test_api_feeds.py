"""Each table has one feed, a stream or the API: neither writes or resolves the other's tables."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    FeedConflictError,
    NotCaughtUpError,
    OptionError,
    TransactionConflictError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TableID, TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication.source.event import EntityKind
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.message import LatchScope, Moment, SchemaChange
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, Publication
from pyspark_theflash.storage.store.catalog import feed_history, schema_records
from pyspark_theflash.storage.store.feed import (
    FEED_KIND,
    SCHEMA_KINDS,
    SIDE,
    SIDE_IDS_FROM,
    WRITTEN_KIND,
    Feed,
    feed_guard,
    feed_record,
    main_feed,
)
from pyspark_theflash.storage.store.folder import FORMAT_FILE, open_manifest, read_identity
from pyspark_theflash.storage.store.manifest import Guard, ManifestChange, Record
from pyspark_theflash.storage.store.raft_fed import RaftFedMarker
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.file import FileSchema
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.support.ways import FRAMED, Way, marked
from tests.support.workloads import check_answers, workload
from tests.support.writes import latch, schema_change, write

FS, CLOCK = LocalFileSystem(), SystemClock()
BANK = workload("bank")
STREAMED = "bank.acc_int"
ANSWERS = [answer for answer in BANK.answers() if answer.table == STREAMED]
HALF, LATER, END = (ANSWERS[n].snapshot_ts for n in (len(ANSWERS) // 2, -2, -1))
COLUMNS = [id_column(), column("name", MySQLType.VARCHAR, flen=20)]
NOTES = table_info(SIDE_IDS_FROM + 7, "own.notes", COLUMNS)
LOW = table_info(7, "own.low", COLUMNS)
LOW_EVENT = TableEvent(HALF, LOW.db, LOW.id, LOW)


def opened(store: Path, guard: Guard | None = None) -> Engine:
    return registry.open_engine(store, read_identity(store, FS), FS, CLOCK, guard)


def apply(store: Path, until_ts: TimeStamp) -> None:
    """Apply the bank's binlog up to a timestamp."""
    with closing(opened(store)) as engine:
        writer = Writer(engine, FileSchema(BANK.schema))
        assert BANK.base is not None
        writer.load_base(BANK.base)
        writer.run_once(FileSource(BANK.binlog), until_ts=until_ts)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("half") / "store"
    registry.create(store, registry.MAGIC, FS)
    apply(store, HALF)
    return store


@pytest.fixture
def store(half: Path, tmp_path: Path) -> Path:
    """Half of the bank."""
    return Path(shutil.copytree(half, tmp_path / "store"))


@pytest.fixture(params=marked(FRAMED))
def api(request: pytest.FixtureRequest, store: Path, tmp_path: Path) -> Iterator[TheFlash]:
    with ExitStack() as undo:
        yield Way(request.param, tmp_path, undo).open(store)


def streamed_before(ts: TimeStamp) -> TimeStamp:
    """The start_ts of the last transaction of the binlog that commits by then."""
    commits = (e for e in FileSource(BANK.binlog).entities() if e.kind is EntityKind.COMMIT)
    return max((e.commit_ts, e.start_ts) for e in commits if e.commit_ts <= ts)[1]


def put(store: Path, records: list[Record], deletes: tuple[tuple[str, str], ...] = ()) -> None:
    with closing(open_manifest(store, FS)) as manifest:
        manifest.commit(ManifestChange(records, deletes), manifest.take_token())


def rows(api: TheFlash, ts: int, table: str = "own.notes") -> list[Any]:
    plan = api.plan(table, moment=Moment(ts))
    cells = [tuple(row.values()) for batch in api.read(plan) for row in batch.to_pylist()]
    api.release(plan.snapshot)
    return sorted(cells)


def begin(api: TheFlash, rows: dict[Any, Any] | None = None, **fields: Any) -> Any:
    """The API's first write beside a stream."""
    held = latch(api)
    try:
        fields = {"start_ts": HALF - 9, "resolved_ts": HALF - 1, **fields}
        return write(api, held, rows or {}, **fields)
    finally:
        api.release_latch(held)


def test_what_a_stream_resolves_is_not_moved_by_the_api(api: TheFlash, store: Path) -> None:
    """The case that gave 238 rows for TiDB's 249, and a writer that could not continue."""
    before = api.status()
    for fields in (
        {"resolved_ts": END},
        {"start_ts": BANK.end_ts, "resolved_ts": END},
        {"resolved_ts": END, "position": "x"},
    ):
        held = latch(api)
        with pytest.raises(FeedConflictError, match="stream"):
            write(api, held, {}, **fields)
        api.release_latch(held)
    assert (api.status().generation, api.status().resolved_ts) == (before.generation, HALF)
    with pytest.raises(NotCaughtUpError):
        api.digest(STREAMED, Moment(END))
    apply(store, END)
    assert check_answers(store, ANSWERS) == len(ANSWERS)


@pytest.mark.parametrize("table_id", [1, SIDE_IDS_FROM - 1, None])
def test_tables_that_a_stream_writes_or_could(api: TheFlash, table_id: int | None) -> None:
    streamed = next(t.id for t in api.tables().tables if t.name == STREAMED)
    table = table_info(table_id or streamed, STREAMED if table_id is None else "own.t", COLUMNS)
    before = api.status()
    for write_of in (
        {"rows": {table: [(1, HALF + 5, HALF + 4, [1, "a"])]}},
        {"schema": (schema_change(table, HALF),)},
        {"schema": (SchemaChange(HALF + 5, "bank", table.id),)},
        {
            "rows": {table: [(1, HALF + 5, HALF + 4, [1, "a"])]},
            "schema": (schema_change(NOTES, HALF),),
        },
    ):
        with pytest.raises(FeedConflictError):
            begin(api, **write_of)
    held = latch(api, LatchScope(STREAMED))
    wanted = table_info(streamed, STREAMED, COLUMNS)
    with pytest.raises(FeedConflictError):
        write(api, held, {wanted: [(1, HALF + 5, HALF + 4, [1, "a"])]})
    assert api.status().generation == before.generation


def test_a_table_of_the_api_beside_a_stream(api: TheFlash, store: Path) -> None:
    """Each is readable up to its feed's progress; the newest timestamp is the lesser of both."""
    change = (schema_change(NOTES, HALF - 9),)
    begin(api, {NOTES: [(1, HALF - 5, HALF - 6, [1, "tea"])]}, schema=change)
    assert [(f.feed, f.resolved_ts) for f in api.status().feeds] == [
        ("stream", HALF),
        ("api", HALF - 1),
    ]
    assert api.status().resolved_ts == HALF - 1
    assert "own.notes" in [t.name for t in api.tables().tables]
    assert rows(api, HALF - 1) == [(1, "tea")]
    with pytest.raises(NotCaughtUpError):
        rows(api, HALF)
    apply(store, LATER)
    held = latch(api)
    later = {NOTES: [(1, LATER + 1, LATER, None), (2, LATER + 1, LATER, [2, "milk"])]}
    assert write(api, held, later, resolved_ts=END).resolved_ts == END
    api.release_latch(held)
    assert rows(api, END) == [(2, "milk")]
    with pytest.raises(NotCaughtUpError):
        api.digest(STREAMED, Moment(END))
    apply(store, END)
    assert api.status().resolved_ts == END
    assert check_answers(store, ANSWERS) == len(ANSWERS)
    assert rows(api, LATER) == [(1, "tea")]
    assert main(["fsck", str(store)]) == 0


def test_transactions_of_two_feeds_that_share_a_start_ts(store: Path) -> None:
    """Each has a ledger: a write of the API does not conflict with a transaction of the stream."""
    done, to_come = streamed_before(HALF), streamed_before(END)
    with connect(store) as api:
        before = api.status().ledger_entries
        shared = [(1, HALF - 5, done, [1, "x"]), (2, to_come + 1, to_come, [2, "x"])]
        begin(api, {NOTES: shared}, schema=(schema_change(NOTES, HALF - 9),))
        assert api.status().ledger_entries == before + 2
        held = latch(api)
        with pytest.raises(TransactionConflictError):
            write(api, held, {NOTES: [(9, HALF - 4, done, [9, "other"])]})
        api.release_latch(held)
    apply(store, END)
    assert check_answers(store, ANSWERS) == len(ANSWERS)
    with connect(store) as api:
        api.collect_garbage(HALF - 2)
        assert rows(api, HALF - 2) == [(1, "x")]
        assert [f.oldest_ts for f in api.status().feeds] == [HALF - 2, HALF - 2]


def test_names_that_both_have(store: Path) -> None:
    """One of the stream's is refused; one that it takes later is read of neither."""
    with connect(store) as api:
        for ts in (HALF - 9, HALF + 9):
            taken = table_info(NOTES.id, STREAMED, COLUMNS)
            with pytest.raises(FeedConflictError, match="name"):
                begin(api, schema=(schema_change(taken, ts),), resolved_ts=HALF + 9)
        begin(api, schema=(schema_change(NOTES, HALF - 9),))
    with closing(opened(store)) as engine:
        history = feed_history(engine.read(SCHEMA_KINDS))
        assert history is not None
        same = table_info(99, NOTES.full_name, COLUMNS)
        event = TableEvent(TimeStamp(HALF - 3), same.db, TableID(99), same)
        more = SchemaHistory(
            history.start_ts, history.end_ts, [*history.events, event], history.versions
        )
        engine.publish(Publication((), ManifestChange(schema_records(more))))
    with connect(store) as api:
        assert rows(api, HALF - 4) == []
        with pytest.raises(FeedConflictError, match="two tables"):
            rows(api, HALF - 1)
        assert api.digest(STREAMED, Moment(HALF - 1)).rows


def test_a_stream_does_not_begin_where_the_api_has(tmp_path: Path) -> None:
    store = tmp_path / "store"
    registry.create(store, registry.MAGIC, FS)
    with connect(store) as api:
        begin(api, schema=(schema_change(LOW, HALF - 9),))
        assert [f.feed for f in api.status().feeds] == ["api"]
    with closing(opened(store)) as engine, pytest.raises(FeedConflictError, match="API"):
        Writer(engine, FileSchema(BANK.schema))


def test_a_store_that_tikv_feeds_is_not_written(store: Path) -> None:
    put(store, [RaftFedMarker(7).to_record()])
    with connect(store) as api:
        held = latch(api)
        with pytest.raises(OptionError, match="TiKV"):
            write(api, held, {}, resolved_ts=END)


def test_the_commit_looks_at_the_feed_again(tmp_path: Path) -> None:
    """The check is made within the transaction of the commit."""
    store = tmp_path / "store"
    registry.create(store, registry.MAGIC, FS)
    for mine, other in ((Feed.API, Feed.STREAM), (Feed.STREAM, Feed.API)):
        with closing(opened(store, feed_guard(mine))) as engine:
            engine.publish(Publication((), ManifestChange([feed_record(mine)])))
            engine.publish(Publication((), ManifestChange([feed_record(other)])))
            before = engine.read([FEED_KIND]).generation
            with pytest.raises(FeedConflictError):
                engine.publish(Publication((), ManifestChange([Record("setting", "x", b"1")])))
            assert engine.read([FEED_KIND]).generation == before
        put(store, [], ((FEED_KIND, "main"),))


def as_format_3(store: Path, records: list[Record] | None = None) -> None:
    """Make it what a version of format 3 has left; with more records of that version."""
    put(store, records or [], ((FEED_KIND, "main"),))
    (store / FORMAT_FILE).write_text("theflash-store 3\n")


def test_the_feed_of_a_store_of_format_3_is_inferred(store: Path, tmp_path: Path) -> None:
    api_only = tmp_path / "api"
    registry.create(api_only, registry.MAGIC, FS)
    with connect(api_only) as api:
        begin(
            api, {LOW: [(1, HALF - 5, HALF - 6, [1, "a"])]}, schema=(schema_change(LOW, HALF - 9),)
        )
    for path, feed in ((store, Feed.STREAM), (api_only, Feed.API)):
        as_format_3(path)
        with closing(open_manifest(path, FS)) as manifest:
            assert main_feed(manifest.read([FEED_KIND])) is feed
        assert (path / FORMAT_FILE).read_text() == "theflash-store 4\n"
        assert main(["fsck", str(path)]) == 0
    with connect(api_only) as api:
        assert rows(api, HALF - 1, "own.low") == [(1, "a")]
        held = latch(api)
        assert write(api, held, {LOW: [(2, HALF, HALF - 1, [2, "b"])]}, resolved_ts=END).rows == 1
    apply(store, END)
    assert check_answers(store, ANSWERS) == len(ANSWERS)


def test_a_store_that_both_wrote_under_format_3(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can be neither read nor continued, and fsck reports the reason."""
    as_format_3(store, [Record(WRITTEN_KIND, f"{7:020d}", str(END).encode())])
    with connect(store) as api, pytest.raises(FeedConflictError, match="through the API"):
        api.digest(STREAMED, Moment(HALF))
    with pytest.raises(FeedConflictError):
        apply(store, END)
    capsys.readouterr()
    assert main(["fsck", str(store)]) == 1
    assert "through the API" in capsys.readouterr().out


def test_fsck_finds_rows_of_the_api_in_a_table_of_a_stream(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for records in (
        [Record(WRITTEN_KIND, f"{7:020d}", str(END).encode())],
        [feed_record(Feed.API)],
        schema_records(SchemaHistory(HALF, HALF, [LOW_EVENT], ()), feed=SIDE),
    ):
        damaged = Path(shutil.copytree(store, store.with_name("damaged")))
        put(damaged, list(records))
        capsys.readouterr()
        status = main(["fsck", str(damaged)])
        assert status == 1, (records, capsys.readouterr().out)
        shutil.rmtree(damaged)
