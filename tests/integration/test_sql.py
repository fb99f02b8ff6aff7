"""SQL over captured workloads: TiDB's own answers, every type, and the command line."""

import decimal
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    SqlError,
    UnrepresentableValueError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.plan.sql_tables import SnapshotTables
from pyspark_theflash.read.present import Presentation, ZeroDates
from pyspark_theflash.read.sql.lazy import SqlTable
from pyspark_theflash.service.client.sql_tables import ServedTables
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.message import Moment
from pyspark_theflash.service.wire.message import Presentation as WirePresentation
from tests.support.workloads import NAMES, workload

Stores = Callable[[str], Path]
Run = Callable[..., tuple[int, str, str]]
SHOWN = Presentation(ZeroDates.STRING)
COUNT = "SELECT count(*) FROM tpch.lineitem"


def rows(snapshot: ReadSnapshot, text: str) -> list[tuple[Any, ...]]:
    with snapshot.sql(text, presentation=SHOWN) as result:
        return [
            row
            for batch in result
            for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)
        ]


def test_tidbs_answers_to_queries(workload_store: Stores) -> None:
    answers = json.loads((workload("tpch").folder / "truth" / "queries.json").read_text())
    for answer in answers:
        text = answer["sql"].replace("from orders,", "from tpch.orders,")
        for table in ("lineitem", "orders"):
            text = text.replace(f"from {table}", f"from tpch.{table}").replace(
                f",{table} ", f",tpch.{table} "
            )
        with open_snapshot(workload_store("tpch"), TimeStamp(answer["ts"])) as snapshot:
            selected = rows(snapshot, text)
        assert [
            list(map(like, row, truth)) for row, truth in zip(selected, answer["rows"], strict=True)
        ] == answer["rows"]
    assert len(answers) >= 15


def like(value: Any, truth: str) -> str:
    """As TiDB prints it: an average of decimals, which is a double here, with its digits."""
    if isinstance(value, float):
        return f"{value:.{len(truth.partition('.')[2])}f}"
    return str(value)


@pytest.mark.parametrize("name", NAMES)
def test_every_table_comes_as_a_scan_gives_it(name: str, workload_store: Stores) -> None:
    with open_snapshot(workload_store(name)) as snapshot:
        for table in snapshot.tables():
            types = [SHOWN.type_of(c.type) for c in table.public_columns]
            try:
                compare(snapshot, table.full_name)
            except UnrepresentableValueError:
                assert any(map(pa.types.is_decimal256, types)), table.full_name


def test_every_type_comes_as_a_scan_gives_it(suite_store: Path) -> None:
    with open_snapshot(suite_store) as snapshot:
        names = [table.full_name for table in snapshot.tables()]
        assert sum(compare(snapshot, name) for name in names) > 100
        texts = [
            f'SELECT count(*) FROM "{n.partition(".")[0]}"."{n.partition(".")[2]}"' for n in names
        ]
        for name, text in zip(names, texts, strict=True):
            assert rows(snapshot, text) == [(sum(b.num_rows for b in snapshot.scan(name, [])),)]


def test_tables_of_the_client_are_those_of_a_snapshot(
    workload_store: Stores, suite_store: Path
) -> None:
    """With the same dictionaries, which queries of the command line need for their speed."""
    dictionaries = 0
    for store in (workload_store("tpch"), workload_store("bank"), suite_store):
        with open_snapshot(store) as snapshot, connect(store) as api:
            pinned = api.snapshot(Moment(snapshot.snapshot_ts))
            served = ServedTables(api, pinned.handle, WirePresentation("string"))
            tables = SnapshotTables(snapshot, SHOWN)
            assert sorted(served.names()) == sorted(tables.names())
            for db, name in tables.names():
                table, other = tables.open(db, name), served.open(db, name)
                assert table.schema == other.schema
                dictionaries += sum(map(pa.types.is_dictionary, table.schema.types))
                assert contents(other) == contents(table), name
    assert dictionaries > 10


def contents(table: SqlTable) -> list[dict[str, Any]] | str:
    """Return the rows, or the text of the error."""
    try:
        batches = list(table.read(table.schema.names))
    except UnrepresentableValueError as error:
        return str(error)
    assert {batch.schema for batch in batches} <= {table.schema}
    return sorted((row for batch in batches for row in batch.to_pylist()), key=repr)


def compare(snapshot: ReadSnapshot, name: str) -> int:
    """Every row and value of a table; how many rows."""
    expected: Counter[str] = Counter()
    for batch in snapshot.scan(name, None, SHOWN):
        columns = [plain(column) for column in batch.columns]
        expected.update(map(repr, zip(*columns, strict=True)))
    db, _, table = name.partition(".")
    selected: Counter[str] = Counter()
    with snapshot.sql(f'SELECT * FROM "{db}"."{table}"', presentation=SHOWN) as result:
        for batch in result:
            selected.update(map(repr, zip(*(plain(c) for c in batch.columns), strict=True)))
    assert selected == expected, name
    return expected.total()


def plain(values: pa.Array) -> list[Any]:
    """Python values; a TIME as its microseconds, whether duration or interval."""
    if pa.types.is_duration(values.type):
        return values.cast(pa.int64()).to_pylist()
    if pa.types.is_interval(values.type):
        parts = [v and (v.months, v.days, v.nanoseconds // 1000) for v in values.to_pylist()]
        assert all(v is None or v[:2] == (0, 0) for v in parts)
        return [v and v[2] for v in parts]
    if pa.types.is_decimal(values.type):
        return [v and str(v) for v in values.to_pylist()]
    return values.to_pylist()


def test_times_beyond_a_day_compare_and_decimals_keep_their_digits(suite_store: Path) -> None:
    with open_snapshot(suite_store) as snapshot:
        texts = rows(snapshot, "SELECT INTERVAL '838:59:59' > INTERVAL '25:00:00'")
        assert texts == [(True,)]
        wide = [
            (t.full_name, c.name)
            for t in snapshot.tables()
            for c in t.public_columns
            if pa.types.is_decimal256(SHOWN.type_of(c.type))
        ]
        assert wide
        for name, column in wide:
            values = [
                v
                for b in snapshot.scan(name, [column])
                for v in b.column(0).to_pylist()
                if v is not None
            ]
            fits = all(len(v.as_tuple().digits) <= 38 for v in values)
            db, _, table = name.partition(".")
            text = f'SELECT "{column}" FROM "{db}"."{table}"'
            if fits:
                exact = [v for (v,) in rows(snapshot, text) if v is not None]
                assert sorted(exact) == sorted(values)
            else:
                with pytest.raises(UnrepresentableValueError):
                    rows(snapshot, text)


def test_a_transaction_is_never_torn(workload_store: Stores) -> None:
    """Over all tables in one statement: the invariant of the bank."""
    bank = workload("bank")
    total = json.loads((bank.folder / "invariant.json").read_text())["total"]
    with open_snapshot(workload_store("bank")) as snapshot:
        names = [table.full_name for table in snapshot.tables()]
    sums = " + ".join(f"(SELECT coalesce(sum(balance), 0) FROM {name})" for name in names)
    for answer in {a.snapshot_ts for a in bank.answers()}:
        with open_snapshot(workload_store("bank"), answer) as snapshot:
            assert rows(snapshot, f"SELECT {sums}") == [(decimal.Decimal(total),)]


def test_zero_dates_raise_unless_told(suite_store: Path) -> None:
    with open_snapshot(suite_store) as snapshot:
        names = [t.full_name for t in snapshot.tables()]
        raised = 0
        for name in names:
            db, _, table = name.partition(".")
            try:
                with snapshot.sql(f'SELECT * FROM "{db}"."{table}"') as result:
                    list(result)
            except UnrepresentableValueError:
                raised += 1
        assert raised


def test_a_flipped_bit_is_corruption(
    workload_copy: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    workload_copy("tpch", store)
    for file in (store / "data").rglob("*.parquet"):
        content = bytearray(file.read_bytes())
        content[len(content) // 3] ^= 16
        file.write_bytes(content)
    with open_snapshot(store) as snapshot, pytest.raises(CorruptionError):
        rows(snapshot, "SELECT * FROM tpch.lineitem")


# -- the command line


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


GROUPS = (
    "SELECT l_returnflag AS flag, count(*) AS n, min(l_shipdate) AS first FROM tpch.lineitem "
    "GROUP BY ALL ORDER BY 1"
)


def test_formats(workload_store: Stores, run: Run, tmp_path: Path) -> None:
    store = workload_store("tpch")
    with open_snapshot(store) as snapshot:
        expected = [[flag, str(n), str(first)] for flag, n, first in rows(snapshot, GROUPS)]
    status, out, err = run("sql", store, GROUPS, "--format", "jsonl")
    assert (status, err, [json.loads(line) for line in out.splitlines()]) == (0, "", expected)
    status, out, err = run("sql", store, GROUPS)
    assert (status, [line.split() for line in out.splitlines()[2:]]) == (0, expected)
    assert run("sql", store, GROUPS, "--format", "parquet", "--output", tmp_path / "x")[0] == 0
    assert run("sql", store, GROUPS, "--format", "arrow", "--output", tmp_path / "y")[0] == 0
    with pa.ipc.open_stream((tmp_path / "y").read_bytes()) as reader:
        table = reader.read_all()
    assert table == pq.read_table(tmp_path / "x")
    assert table.column("n").to_pylist() == [int(n) for _, n, _ in expected]


def test_time_travel(workload_store: Stores, run: Run) -> None:
    for answer in workload("tpch").answers():
        if answer.table == "tpch.lineitem":
            done = run(
                "sql",
                workload_store("tpch"),
                COUNT,
                "--at",
                answer.snapshot_ts,
                "--format",
                "jsonl",
            )
            assert done == (0, f'["{answer.rows}"]\n', "")


@pytest.mark.parametrize(
    ("text", "status", "error"),
    [
        ("SELECT nope FROM tpch.lineitem", 7, "SqlError: Binder Error"),
        ("SELECT 1 FROM tpch.nope", 3, "TableNotFoundError"),
        ("DROP VIEW tpch.lineitem", 7, "SqlError: expected TABLE instead of VIEW"),
        ("SELECT * FROM read_text('/etc/passwd')", 7, "SqlError"),
    ],
)
def test_errors_are_one_line(
    text: str, status: int, error: str, workload_store: Stores, run: Run
) -> None:
    got, out, err = run("sql", workload_store("tpch"), text)
    assert (got, out, err.count("\n")) == (status, "", 1)
    assert error in err


def test_bounds(workload_store: Stores, run: Run) -> None:
    store = workload_store("tpch")
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range < b.range"
    assert "SqlTimeoutError" in run("sql", store, endless, "--timeout", "0.2")[2]
    greedy = "SELECT list(l) FROM tpch.lineitem l, range(100)"
    assert "SqlMemoryError" in run("sql", store, greedy, "--memory", "20")[2]
    assert run("sql", store, "SELECT 1", "--memory", "x")[0] == 2


def test_ctrl_c_ends_a_query_quietly(workload_store: Stores) -> None:
    text = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range < b.range"
    started = (
        "import signal, sys, threading, os\n"
        "from pyspark_theflash.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import pyspark_theflash.read.sql.process as process\n"
        "begin = process._QueryProcess.result\n"
        "def result(self):\n"
        "    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    return begin(self)\n"
        "process._QueryProcess.result = result\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", started, "sql", str(workload_store("tpch")), text],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_values_are_parameters(workload_store: Stores) -> None:
    with open_snapshot(workload_store("tpch")) as snapshot:
        with snapshot.sql(
            "SELECT count(*) FROM tpch.lineitem WHERE l_returnflag = ?", ["A"]
        ) as result:
            (batch,) = list(result)
        assert batch.column(0)[0].as_py() > 0
        with pytest.raises(SqlError):
            snapshot.sql("SELECT count(*) FROM tpch.lineitem WHERE l_returnflag = ?", [])
