"""Statements of SQL that write, over every way: atomic, serialized, only on their own tables."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    ColumnValueError,
    FeedConflictError,
    LatchHeldError,
    LatchLostError,
    NotCaughtUpError,
    OptionError,
    RoleError,
    SqlMemoryError,
    StatementConflictError,
    UnsupportedError,
)
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.sql.session import QueryLimits
from pyspark_theflash.read.sql.sql import run_sql
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.service.client import statement
from pyspark_theflash.service.client.statement import execute_sql
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.message import (
    StatementWrite,
    WriteRequest,
    WriteTable,
)
from pyspark_theflash.service.wire.method import Role
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.feed import SIDE_IDS_FROM
from pyspark_theflash.storage.store.folder import format_of, read_identity
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support.manual_clock import ManualClock
from tests.support.sql_oracle import stored_rows
from tests.support.victims import Victim
from tests.support.ways import FRAMED, Way, marked
from tests.support.workloads import check_answers, workload
from tests.support.writes import latch, request, schema_change, versions, write

FS, CLOCK = LocalFileSystem(), SystemClock()
CREATE = "CREATE TABLE own.t (id BIGINT PRIMARY KEY, n INT)"
BANK = workload("bank")
ANSWERS = [answer for answer in BANK.answers() if answer.table == "bank.acc_int"]
HALF, END = (ANSWERS[n].snapshot_ts for n in (len(ANSWERS) // 2, -1))
STEPS = ("ingest.before_publish", "magic.before_file", "magic.after_file", "magic.before_commit")
COMMITTED = ("manifest.after_commit", "ingest.after_publish")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the queries of statements without a process of their own."""
    monkeypatch.setattr(statement, "run_confined", run_sql)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, FS)
    return tmp_path / "store"


@pytest.fixture
def store(path: Path, in_this_process: None) -> Iterator[TheFlash]:
    """An own table with the rows (0, 0), (1, 0) and (2, 0)."""
    with connect(path) as opened:
        execute_sql(opened, CREATE)
        execute_sql(opened, "INSERT INTO own.t SELECT i, 0 FROM range(3) r(i)")
        yield opened


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A store that a stream has written up to `HALF`."""
    registry.create(tmp_path / "bank", registry.MAGIC, FS)
    apply(tmp_path / "bank", HALF)
    return tmp_path / "bank"


def apply(path: Path, until_ts: TimeStamp) -> None:
    """Apply the bank's binlog up to a timestamp."""
    with closing(registry.open_engine(path, read_identity(path, FS), FS, CLOCK)) as engine:
        writer = Writer(engine, FileSchema(BANK.schema))
        assert BANK.base is not None
        writer.load_base(BANK.base)
        writer.run_once(FileSource(BANK.binlog), until_ts=until_ts)


def rows(store: TheFlash, table: str = "own.t") -> list[tuple[object, ...]]:
    return stored_rows(store, table, store.status().resolved_ts or 0)


@pytest.mark.parametrize("way", marked(FRAMED))
def test_every_way(way: str, path: Path, tmp_path: Path) -> None:
    with ExitStack() as undo:
        opener = Way(way, tmp_path, undo)
        api = opener.open(path, Role.WRITE)
        execute_sql(api, CREATE)
        done = execute_sql(api, "INSERT INTO own.t VALUES (1, ?), (2, 5)", [7])
        assert (done.rows, done.commit_ts) == (2, api.status().resolved_ts)
        assert rows(api) == [(1, 7), (2, 5)]
        if way in ("tcp, tls and token", "workers"):
            with pytest.raises(RoleError):
                execute_sql(opener.open(path, Role.READ), "DELETE FROM own.t")
            assert rows(api) == [(1, 7), (2, 5)]


def test_limits_hold_for_statements(path: Path) -> None:
    with connect(path) as api:
        execute_sql(api, CREATE)
        text = "INSERT INTO own.t SELECT length(repeat('x', 2000000000)), 1"
        with pytest.raises(SqlMemoryError):
            execute_sql(api, text, limits=QueryLimits(memory_mb=64))
        assert rows(api) == []
        # The latch was released.
        assert api.status().latches == 0


@pytest.mark.usefixtures("in_this_process")
def test_a_replicated_table_is_refused(bank: Path) -> None:
    with connect(bank) as api:
        before = api.status()
        for text in (
            "UPDATE bank.acc_int SET balance = 0",
            "DELETE FROM BANK.ACC_INT",
            "INSERT INTO bank.acc_int SELECT * FROM bank.acc_int",
            "DROP TABLE bank.acc_int",
            "CREATE TABLE bank.acc_int (a INT)",
        ):
            with pytest.raises(FeedConflictError, match=r"replicated by the store's stream \(at"):
                execute_sql(api, text)
        table_id = next(t.id for t in api.tables().tables if t.name == "bank.acc_int")
        # The server rejects it too, from a client that does not look.
        held = latch(api)
        table = versions(table_info(7, "x.x", [id_column()]), [(1, 2, 1, [1])]).select(["c1"])
        with pytest.raises(FeedConflictError, match="a stream writes it"):
            api.write(_request(held, table_id, StatementWrite("insert")), [table])
        assert api.status().generation == before.generation


@pytest.mark.usefixtures("in_this_process")
def test_beside_a_stream(bank: Path) -> None:
    """Its timestamps follow the stream's, whose newest rows stay readable without a timestamp."""
    with connect(bank) as api:
        created = execute_sql(api, "CREATE TABLE own.t (id BIGINT PRIMARY KEY, n INT)").commit_ts
        assert created == HALF + 1
        assert api.status().resolved_ts == HALF
        copy = "INSERT INTO own.t SELECT id, balance FROM bank.acc_int"
        with pytest.raises(NotCaughtUpError):
            execute_sql(api, copy)
        apply(bank, END)
        assert api.status().resolved_ts == END
        done = execute_sql(api, copy)
        assert done.commit_ts is not None
        assert done.commit_ts > END
        assert stored_rows(api, "own.t", done.commit_ts) == [
            (row[0], row[2]) for row in stored_rows(api, "bank.acc_int", END)
        ]
        assert stored_rows(api, "own.t", END) == []
    assert format_of(bank) == 5
    assert check_answers(bank, ANSWERS) == len(ANSWERS)
    assert main(["fsck", str(bank)]) == 0


def increment(path: Path, times: int) -> None:
    """A victim's target: statements that each read what they write."""
    with pytest.MonkeyPatch.context() as patch, connect(path) as api:
        patch.setattr(statement, "run_confined", run_sql)
        for _ in range(times):
            execute_sql(api, "UPDATE own.t SET n = n + 1")


def test_no_update_is_lost_and_readers_see_whole_statements(path: Path, store: TheFlash) -> None:
    """Processes increment all rows; at every timestamp, all rows are equal."""
    victims = [Victim(increment, path, 4) for _ in range(3)]
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        with connect(path) as reader:
            while not done.is_set():
                values = {row[1] for row in rows(reader)}
                assert len(values) == 1
                seen.update(values)  # type: ignore[arg-type]

    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            read()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    for victim in victims:
        victim.join()
    done.set()
    thread.join()
    assert not failures
    assert rows(store) == [(n, 12) for n in range(3)]
    assert len(seen) > 1


def die_at(path: Path, step: str) -> None:
    """A victim's target: a statement that is killed at a step."""
    with (
        pytest.MonkeyPatch.context() as patch,
        connect(path) as api,
        armed(step, lambda: os._exit(9)),
    ):
        patch.setattr(statement, "run_confined", run_sql)
        patch.setattr(statement, "_TTL_MS", 1_000)
        execute_sql(api, "UPDATE own.t SET id = id + 100, n = 1")


@pytest.mark.parametrize("step", [*STEPS, *COMMITTED])
def test_killed_at_a_step_it_is_done_or_not(path: Path, store: TheFlash, step: str) -> None:
    assert Victim(die_at, path, step).exit_code() == 9
    changed = [(n + 100, 1) for n in range(3)] if step in COMMITTED else [(n, 0) for n in range(3)]
    assert rows(store) == changed
    # The next statement waits for the latch of the killed one.
    assert execute_sql(store, "DELETE FROM own.t WHERE n < 5").rows == 3
    assert main(["fsck", str(path)]) == 0


def test_timestamps(path: Path, in_this_process: None) -> None:
    """They grow, also if the clock goes back, and are not below a given bound."""
    clock = ManualClock()
    with connect(path, clock=clock) as api:
        first = execute_sql(api, CREATE, clock=clock).commit_ts
        assert first == clock.wall_ms() << 18
        clock.now_ms += 60_000  # its time of day goes back by as much
        insert = "INSERT INTO own.t VALUES (1, 1), (2, 2)"
        second = execute_sql(api, insert, clock=clock).commit_ts
        assert second == first + 2
        bound = second + (1 << 30)
        third = execute_sql(api, "DELETE FROM own.t", least_ts=lambda: bound).commit_ts
        assert third == bound
        fourth = execute_sql(api, insert, least_ts=lambda: 1).commit_ts
        assert fourth == bound + 2


def _request(held: object, table_id: int, write: StatementWrite) -> WriteRequest:
    return replace(request(held), tables=(WriteTable(table_id),), statement=write)  # type: ignore[arg-type]


def test_a_statement_whose_snapshot_is_old_is_rejected(store: TheFlash) -> None:
    read_ts = store.status().resolved_ts or 0
    table_id = store.describe("own.t").id
    keys = versions(table_info(7, "x.x", [id_column()]), [(1, 2, 1, [1])]).select(["c1"])
    keys = keys.rename_columns(["k1"])
    execute_sql(store, "UPDATE own.t SET n = 9 WHERE id = 1")
    held = latch(store)
    with pytest.raises(StatementConflictError):
        store.write(_request(held, table_id, StatementWrite("delete", read_ts)), [keys])
    now = StatementWrite("delete", store.status().resolved_ts or 0)
    for wrong in (
        replace(_request(held, table_id, now), resolved_ts=5),
        _request(held, table_id, replace(now, kind="")),
        _request(held, table_id, replace(now, kind="replace")),
    ):
        with pytest.raises(OptionError, match="statement"):
            store.write(wrong, [keys])
    store.release_latch(held)
    with pytest.raises(LatchLostError):
        store.write(_request(held, table_id, now), [keys])
    assert rows(store) == [(0, 0), (1, 9), (2, 0)]


def test_other_writers(store: TheFlash) -> None:
    """Their latches are waited for; rows of a loader that are not resolved are an error."""
    held = latch(store)
    with pytest.raises(LatchHeldError):
        execute_sql(store, "DELETE FROM own.t", wait_ms=0)
    loaded = table_info(SIDE_IDS_FROM + 50, "own.u", [id_column()])
    ts = (store.status().resolved_ts or 0) + 10
    write(store, held, {}, schema=(schema_change(loaded, ts),), resolved_ts=ts)
    write(store, held, {loaded: [(1, ts + 10, ts + 5, [1])]})
    store.release_latch(held)
    with pytest.raises(NotCaughtUpError):
        execute_sql(store, "DELETE FROM own.t")
    held = latch(store)
    write(store, held, {}, resolved_ts=ts + 20)
    store.release_latch(held)
    assert execute_sql(store, "UPDATE own.u SET id = id + 1").rows == 1
    assert rows(store, "own.u") == [(2,)]


def test_tables_with_features_that_statements_do_not_maintain(store: TheFlash) -> None:
    index = {"is_unique": True, "is_primary": False, "idx_cols": []}
    plain = table_info(SIDE_IDS_FROM + 50, "own.u", [id_column(), column("n", MySQLType.LONG)])
    info = plain.json_text.replace(
        '"pk_is_handle"', f'"index_info":[{json.dumps(index)}],"pk_is_handle"'
    )
    held = latch(store)
    ts = (store.status().resolved_ts or 0) + 10
    change = replace(schema_change(plain, ts), table_info=info)
    write(store, held, {}, schema=(change,), resolved_ts=ts)
    store.release_latch(held)
    with pytest.raises(UnsupportedError, match="unique index"):
        execute_sql(store, "INSERT INTO own.u VALUES (1, 1)")


def test_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sql(text: str, *options: str) -> tuple[int, str]:
        status = main(["sql", str(path), text, *options])
        out, err = capsys.readouterr()
        return status, out + err

    assert sql(CREATE)[1].startswith("0 rows, at 4")
    assert sql("INSERT INTO own.t VALUES (1, 2)")[1].startswith("1 rows, at 4")
    assert sql("SELECT * FROM own.t", "--format", "jsonl") == (0, '["1","2"]\n')
    assert sql("DELETE FROM own.t WHERE id = 5") == (0, "0 rows, nothing to write\n")
    status, out = sql("UPDATE own.t SET n = 'x'")
    assert (status, out.split(":")[1]) == (7, f" {ColumnValueError.__name__}")
    assert sql("DELETE FROM own.t", "--at", "470613571969220631")[0] == 2
