"""SQL over tables: reads, rejected statements, and the end of queries."""

import decimal
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    SqlError,
    SqlMemoryError,
    SqlTimeoutError,
    TableNotFoundError,
    TheFlashError,
    UnsupportedError,
)
from pyspark_theflash.read.sql.session import QueryLimits, QueryThread
from pyspark_theflash.read.sql.sql import run_sql

ENDLESS = (
    "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE (a.range * b.range) % 7 = 1"
)
TWO = QueryLimits(threads=2)


class Source:
    """A table that records its reads."""

    def __init__(self, table: pa.Table, batch_rows: int = 2) -> None:
        self._table, self._batch_rows = table, batch_rows
        self.read_columns: list[list[str]] = []
        self.schema = table.schema

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        self.read_columns.append(list(columns))
        if columns:
            return iter(self._table.select(columns).to_batches(self._batch_rows))
        empty = pa.StructArray.from_arrays([pa.nulls(len(self._table))], names=["rows"])
        return iter([pa.RecordBatch.from_struct_array(empty).select([])])


class Tables:
    """A catalog of such tables."""

    def __init__(self, **tables: Source) -> None:
        self._tables = tables
        self.opened: list[str] = []

    def names(self) -> list[tuple[str, str]]:
        return [("Shop", name) for name in self._tables]

    def open(self, db: str, table: str) -> Source:
        if table not in self._tables:
            raise TableNotFoundError(f"{db}.{table}", 1)
        self.opened.append(table)
        return self._tables[table]


ITEMS = pa.table(
    {
        "id": pa.array([1, 2, 3, 4], pa.int64()),
        'odd "name': pa.array(["a", "B", None, "b"]),
        "big": pa.array([2**64 - 1, 0, 1, None], pa.uint64()),
        "price": pa.array(
            [decimal.Decimal("1.25"), None, decimal.Decimal("-3.00"), 0], pa.decimal128(15, 2)
        ),
    }
)


@pytest.fixture
def items() -> Source:
    return Source(ITEMS)


@pytest.fixture
def tables(items: Source) -> Tables:
    return Tables(Item=items, other=Source(pa.table({"id": [2, 3]})))


def rows(
    text: str, tables: Tables, parameters: Sequence[object] = (), limits: QueryLimits = TWO
) -> list:
    with run_sql(text, tables, parameters, limits) as result:
        return [tuple(row.values()) for batch in result for row in batch.to_pylist()]


def test_only_what_is_named_is_read(tables: Tables, items: Source) -> None:
    assert rows("SELECT big FROM shop.item WHERE id = 1", tables) == [(2**64 - 1,)]
    assert tables.opened == ["Item"]
    assert sorted(items.read_columns[0]) == ["big", "id"]


def test_a_count_reads_no_column(tables: Tables, items: Source) -> None:
    assert rows("SELECT count(*) FROM Shop.Item", tables) == [(4,)]
    assert items.read_columns == [[]]


def test_tables_join_and_names_may_be_anything(tables: Tables) -> None:
    text = 'SELECT i."odd ""name" FROM shop.item i JOIN shop.other USING (id) ORDER BY id'
    assert rows(text, tables) == [("B",), (None,)]


def test_odd_names_are_found_under_any_alias() -> None:
    """Only tables in the query are opened."""
    odd = Tables(**{'a "b".c': Source(ITEMS), "AS x": Source(ITEMS), "no": Source(ITEMS)})
    text = 'SELECT len(list(y)) FROM Shop."a ""b"".c" AS "x. y", shop."AS x" y'
    assert rows(text, odd) == [(16,)]
    assert sorted(odd.opened) == ["AS x", 'a "b".c']


class Databases:
    """A catalog of one-row tables of several databases, with the row's own name as value."""

    def __init__(self, *names: tuple[str, str]) -> None:
        self._names = names

    def names(self) -> Sequence[tuple[str, str]]:
        return self._names

    def open(self, db: str, table: str) -> Source:
        return Source(pa.table({"name": [f"{db}/{table}"]}))


OWN_NAMES = ["pg_catalog", "information_schema", "temp", "system", "memory"]


@pytest.mark.parametrize("db", [*OWN_NAMES, "Pg_Catalog", "INFORMATION_SCHEMA", "TEMP"])
def test_a_database_named_like_duckdbs_own_does_not_disturb_others(db: str) -> None:
    tables = Databases(("shop", "t"), (db, "t"), (db, "tables"))
    assert rows("SELECT name FROM shop.t", tables) == [("shop/t",)]
    shown = [row[1:3] for row in rows("SHOW ALL TABLES", tables) if row[1] != "main"]
    assert shown == [("shop", "t")]
    rows("SELECT table_name FROM information_schema.tables", tables)
    with pytest.raises(UnsupportedError, match=rf"{db}\.t: SQL over a database with the name"):
        rows(f"SELECT * FROM {db}.t", tables)


@pytest.mark.parametrize("db", ["main", "Main", "pg_temp", "default", "public", "sys"])
def test_other_names_of_databases_can_be_read(db: str) -> None:
    tables = Databases(("shop", "t"), (db, "t"))
    assert rows(f'SELECT name FROM "{db}".t', tables) == [(f"{db}/t",)]
    assert rows("SELECT name FROM shop.t", tables) == [("shop/t",)]


def test_periods_in_names_mix_up_no_tables() -> None:
    tables = Databases(("a", "b.c"), ("a.b", "c"))
    joined = rows('SELECT l.name, r.name AS other FROM a."b.c" l, "a.b".c r', tables)
    assert joined == [("a/b.c", "a.b/c")]


def test_sums_are_wider_than_what_they_sum(tables: Tables) -> None:
    text = "SELECT sum(big), sum(price), min(big), max(price) FROM shop.item"
    assert rows(text, tables) == [(2**64, decimal.Decimal("-1.75"), 0, decimal.Decimal("1.25"))]


def test_values_are_parameters(tables: Tables) -> None:
    text = 'SELECT id FROM shop.item WHERE "odd ""name" = ? AND id > ?'
    assert rows(text, tables, ["b", 0]) == [(4,)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DESCRIBE shop.other", [("id", "BIGINT", "YES", None, None, None)]),
        ("SHOW TABLES FROM shop", [("Item",), ("other",)]),
        ("FROM shop.other", [(2,), (3,)]),
        ("VALUES (1)", [(1,)]),
        ("WITH x AS (SELECT 1) SELECT * FROM x", [(1,)]),
        ("SELECT current_setting('TimeZone')", [("UTC",)]),
    ],
)
def test_what_reads_is_allowed(text: str, expected: list, tables: Tables) -> None:
    assert rows(text, tables) == expected


def test_explain_tells_what_is_read(tables: Tables, items: Source) -> None:
    assert "Projections: c0" in str(rows("EXPLAIN SELECT id FROM shop.item", tables))
    assert not items.read_columns


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE shop.x (a INT)",
        "INSERT INTO shop.other VALUES (1)",
        "DELETE FROM shop.other",
        "DROP VIEW shop.other",
        "COPY (SELECT 1) TO 'x.csv'",
        "EXPORT DATABASE 'x'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 8",
        "RESET threads",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "USE shop",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "CHECKPOINT",
        "VACUUM",
    ],
)
def test_what_does_more_than_read_is_refused(text: str, tables: Tables) -> None:
    with pytest.raises(UnsupportedError, match="more than read"):
        rows(text, tables)


def test_pivot_makes_a_type_and_is_refused(tables: Tables) -> None:
    """DuckDB before 2.0 rejects it as two statements."""
    with pytest.raises((SqlError, UnsupportedError), match=r"more than read|one statement"):
        rows("PIVOT shop.other ON id USING sum(id)", tables)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/*')",
        "SELECT * FROM read_parquet('x.parquet')",
        "SELECT * FROM parquet_metadata('x.parquet')",
        "SELECT * FROM read_json('https://example.com/x.json')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM duckdb_extensions()",
        "SELECT * FROM ITEMS",
        "SELECT * FROM python_map_function()",
        "SELECT getenv('HOME')",
        "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
        "SELECT * FROM query('CREATE TABLE x (a INT)')",
    ],
)
def test_nothing_outside_is_reached(text: str, tables: Tables) -> None:
    with pytest.raises(SqlError):
        rows(text, tables)


def test_duckdbs_own_database_is_not_asked(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not confined: it accesses the network for names in a text."""
    for name, function in vars(duckdb.DuckDBPyConnection).items():
        if callable(function) and callable(getattr(duckdb, name, None)) and name.islower():
            monkeypatch.setattr(duckdb, name, None)
    text = "SELECT count(*) FROM shop.item, 'https://example.com/x.json'"
    with pytest.raises(SqlError, match="disabled"):
        rows(text, tables)
    assert rows("SELECT count(*) FROM shop.item", tables) == [(4,)]


@pytest.mark.parametrize(
    "text", ["SELEC 1", "SELECT 1; SELECT 2", "", "SELECT nope FROM shop.item"]
)
def test_what_is_no_query_is_an_error(text: str, tables: Tables) -> None:
    with pytest.raises(SqlError):
        rows(text, tables)


def test_an_unknown_table_is_ours_to_name(tables: Tables) -> None:
    with pytest.raises(TableNotFoundError):
        rows("SELECT * FROM shop.nope", tables)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT sum(6" + "0" * 37 + "::DECIMAL(38)) FROM range(2)",
        "SELECT (2::HUGEINT ** 126)::HUGEINT * 4",
        "SELECT 9223372036854775807 + 1::BIGINT",
        "SELECT 170141183460469231731687303715884105727::HUGEINT",
    ],
)
def test_what_overflows_raises(text: str, tables: Tables) -> None:
    with pytest.raises(SqlError):
        rows(text, tables)


@pytest.mark.parametrize(
    "value",
    [
        "'101'::BIT",
        "1::BIGNUM",
        "1::VARIANT",
        "TIMETZ '10:00:00+01'",
        "['1'::BIT]",
        "{'a': 1::BIGNUM}",
    ],
)
def test_types_that_arrow_lacks_are_refused(value: str, tables: Tables) -> None:
    with pytest.raises(UnsupportedError):
        rows(f"SELECT {value} AS x", tables)


def test_values_of_rows_stay_out_of_errors(tables: Tables) -> None:
    secret = Tables(t=Source(pa.table({"s": ["it's 'secret' 4711"]})))
    with pytest.raises(SqlError) as caught:
        rows("SELECT s::INT FROM shop.t", secret)
    assert "secret" not in str(caught.value)
    assert "4711" not in str(caught.value)


def test_an_error_of_a_table_keeps_its_type(tables: Tables) -> None:
    class Broken(Source):
        def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            yield from super().read(columns)
            raise CorruptionError("file", 7, "fails its checksum")

    broken = Tables(t=Broken(ITEMS))
    for text in (
        "SELECT * FROM shop.t",
        "SELECT count(*) FROM shop.t",
        "SELECT id FROM shop.t WHERE id > 1",
    ):
        with pytest.raises(CorruptionError):
            rows(text, broken)


def test_memory_is_bounded(tables: Tables) -> None:
    with pytest.raises(SqlMemoryError, match="20 MiB"):
        rows("SELECT list(range) FROM range(100000000)", tables, limits=QueryLimits(20, 2))


def test_time_is_bounded(tables: Tables) -> None:
    with pytest.raises(SqlTimeoutError):
        rows(ENDLESS, tables, limits=QueryLimits(threads=1, timeout_ms=200))


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt; a shell's background jobs are started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_the_query(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    call = QueryThread.call

    def interrupted(self: QueryThread, action: Callable[[], Any]) -> Any:
        def slow() -> Any:
            timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            try:
                return action()
            finally:
                timer.cancel()

        return call(self, slow)

    monkeypatch.setattr(QueryThread, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows(ENDLESS, tables, limits=QueryLimits(threads=1))


def test_what_is_left_unread_is_let_go(tables: Tables) -> None:
    threads = threading.active_count()
    with run_sql("SELECT * FROM range(10000000)", tables, limits=TWO) as result:
        next(iter(result))
    result.close()
    assert threading.active_count() == threads


def test_a_result_is_a_stream_itself(tables: Tables) -> None:
    with run_sql("SELECT id FROM shop.item ORDER BY id DESC", tables, limits=TWO) as result:
        assert pa.table(result).column("id").to_pylist() == [4, 3, 2, 1]


def test_missing_duckdb_is_told(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(TheFlashError, match=r"pyspark-theflash\[sql\]"):
        rows("SELECT 1", tables)
