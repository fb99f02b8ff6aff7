"""The same reads through every way, and the gaps between the ways.

    folder          a `ReadSnapshot` of the store's folder
    server          the API over a socket
    python source   the object that Spark's Python source is, called as Spark calls it
    sql             DuckDB over a snapshot
    jar             Spark with the jar: a frame, or SQL over one

Differences between the ways are declared in `GAPS` as strict xfails: when a gap is closed, its test
fails until the gap is removed from the list. A reason begins with its kind:

    notimpl    could be implemented here
    notyet     not supported by Spark or DuckDB
    never      the difference is intended
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql.datasource import EqualTo

from pyspark_theflash import DefaultSource
from pyspark_theflash.base.errors import (
    ColumnNotFoundError,
    NotCaughtUpError,
    SnapshotTooOldError,
    SqlError,
    TableNotFoundError,
    TheFlashError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read import present
from pyspark_theflash.read.plan.read import read_task
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.service.api.pushed import pushed_of
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.message import (
    Aggregate,
    Aggregation,
    Expression,
    Moment,
    PlanRequest,
    Presentation,
    SortKey,
)
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.text import parse_column
from tests.support.pushed_cases import call, literal
from tests.support.pushed_cases import column as of
from tests.support.pushed_oracle import merged
from tests.support.serving import serving

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ITEMS = table_info(
    7,
    "shop.items",
    [
        id_column(),
        column("name", MySQLType.VARCHAR, flen=20, collate="utf8mb4_general_ci"),
        column("price", MySQLType.NEWDECIMAL, flen=10, decimal=2),
        column("sold", MySQLType.DATE),
        column("state", MySQLType.ENUM, elems=["new", "used"]),
    ],
)
NOTES = table_info(8, "shop.notes", [column("text", MySQLType.VARCHAR)], has_rowid=True)
DATES = table_info(9, "shop.dates", [id_column(), column("day", MySQLType.DATE)])
WIDE = table_info(
    10,
    "shop.wide",
    [id_column(), column("n", MySQLType.NEWDECIMAL, flen=65, decimal=0)],
)
TIMES = table_info(11, "shop.times", [id_column(), column("t", MySQLType.TIME)])
HUGE = Decimal(10**40)
Rows: TypeAlias = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Read:
    """A read as arguments of a plan and as SQL, with its rows or the class of its error."""

    sql: str
    expected: Rows | type[TheFlashError]
    table: str = "shop.items"
    columns: Sequence[str] | None = None
    ts: int = 300
    where: str = ""
    filter: Expression | None = None
    aggregation: Aggregation | None = None
    limit: int = 0
    order: tuple[SortKey, ...] = ()
    zero_dates: str = "raise"

    @property
    def is_planned_with_spark(self) -> bool:
        """Whether Spark can request this of a Python source."""
        return self.aggregation is None and not self.limit

    @property
    def has_order(self) -> bool:
        return bool(self.order)


READS: Mapping[str, Read] = {
    "all rows": Read(
        "SELECT * FROM shop.items",
        [
            (1, "tea", Decimal("1.50"), date(2024, 2, 29), "new"),
            (2, "TEA", Decimal("2.00"), None, "used"),
            (3, None, None, date(1999, 12, 31), None),
        ],
    ),
    "an earlier timestamp": Read(
        "SELECT id, price FROM shop.items",
        [(1, Decimal("1.00")), (4, Decimal("9.99"))],
        columns=["id", "price"],
        ts=150,
    ),
    "columns in the order asked for": Read(
        "SELECT name, id FROM shop.items",
        [("tea", 1), ("TEA", 2), (None, 3)],
        columns=["name", "id"],
    ),
    "a condition by the collation": Read(
        "SELECT id FROM shop.items WHERE name = 'tea'",
        [(1,), (2,)],
        columns=["id"],
        where="name = 'tea'",
    ),
    "a condition of numbers": Read(
        "SELECT id FROM shop.items WHERE price * 2 >= 4 OR id IN (3, 5)",
        [(2,), (3,)],
        columns=["id"],
        where="price * 2 >= 4 or id in (3, 5)",
    ),
    "a filter by bytes": Read(
        "SELECT id FROM shop.items WHERE name = 'tea'",
        [(1,)],
        columns=["id"],
        filter=call("=", of("name"), literal("string", "tea")),
    ),
    "a filter with arithmetic of integers": Read(
        "SELECT id FROM shop.items WHERE id + 1 = 3",
        [(2,)],
        columns=["id"],
        filter=call("=", call("+", of("id"), literal("int", "1")), literal("int", "3")),
    ),
    "count and sum": Read(
        "SELECT count(*), count(name), sum(price), sum(id) FROM shop.items",
        [(3, 2, Decimal("3.50"), 6)],
        aggregation=Aggregation(
            (),
            (
                Aggregate("count"),
                Aggregate("count", of("name")),
                Aggregate("sum", of("price")),
                Aggregate("sum", of("id")),
            ),
        ),
    ),
    "the exact average of decimals": Read(
        "SELECT avg(price) FROM shop.items",
        [(Decimal("5.495"),)],
        ts=150,
        aggregation=Aggregation((), (Aggregate("avg", of("price")),)),
    ),
    "groups by the collation": Read(
        "SELECT name, count(*) FROM shop.items WHERE name IS NOT NULL GROUP BY name",
        [("tea", 2)],
        filter=call("is not null", of("name")),
        aggregation=Aggregation(("name",), (Aggregate("count"),)),
    ),
    "first rows": Read(
        "SELECT id FROM shop.items ORDER BY price DESC NULLS LAST LIMIT 2",
        [(2,), (1,)],
        columns=["id"],
        limit=2,
        order=(SortKey("price", descending=True),),
    ),
    "the _tidb_rowid of a row": Read(
        "SELECT _tidb_rowid, text FROM shop.notes",
        [(5, "a note")],
        table="shop.notes",
        columns=["_tidb_rowid", "text"],
    ),
    "a metadata table": Read(
        'SELECT "database", "table" FROM shop."items$schemas"',
        [("shop", "items")],
        table="shop.items$schemas",
        columns=["database", "table"],
    ),
    "a zero date": Read(
        "SELECT * FROM shop.dates",
        UnrepresentableValueError,
        table="shop.dates",
    ),
    "a zero date as text": Read(
        "SELECT * FROM shop.dates",
        [(1, "0000-00-00")],
        table="shop.dates",
        zero_dates="string",
    ),
    "a decimal of 41 digits": Read(
        "SELECT n FROM shop.wide",
        [(HUGE,)],
        table="shop.wide",
        columns=["n"],
    ),
    "a time": Read(
        "SELECT t FROM shop.times",
        [(-timedelta(hours=838, minutes=59, seconds=59),)],
        table="shop.times",
        columns=["t"],
    ),
    "below the oldest timestamp": Read(
        "SELECT * FROM shop.items",
        SnapshotTooOldError,
        ts=99,
    ),
    "above resolved_ts": Read(
        "SELECT * FROM shop.items",
        NotCaughtUpError,
        ts=301,
    ),
    "a missing table": Read(
        "SELECT * FROM shop.nothing",
        TableNotFoundError,
        table="shop.nothing",
    ),
    "a missing column": Read(
        "SELECT nothing FROM shop.items",
        ColumnNotFoundError,
        columns=["nothing"],
    ),
}

NO_FILTERS = "notyet: Spark 4.2 uses the filters of one query for the next, so none are taken"
NO_COLLATIONS = "notimpl: collations are not applied to SQL"
ONLY_DECIMALS = "notimpl: filters compute with decimals only"
NO_AVERAGE = "never: the receiver divides sums by counts"
BYTES = "never: pushed groups are Spark's, which compares bytes"
SHORT_DECIMALS = "notyet: Spark's decimals have 38 digits, so it comes as a text"
GAPS: Mapping[tuple[str, str], tuple[type[BaseException], str]] = {
    ("sql", "a condition by the collation"): (AssertionError, NO_COLLATIONS),
    ("python source", "a filter by bytes"): (UnsupportedError, NO_FILTERS),
    ("folder", "a filter with arithmetic of integers"): (UnsupportedError, ONLY_DECIMALS),
    ("server", "a filter with arithmetic of integers"): (UnsupportedError, ONLY_DECIMALS),
    ("python source", "a filter with arithmetic of integers"): (UnsupportedError, NO_FILTERS),
    ("folder", "the exact average of decimals"): (UnsupportedError, NO_AVERAGE),
    ("server", "the exact average of decimals"): (UnsupportedError, NO_AVERAGE),
    ("sql", "the exact average of decimals"): (
        AssertionError,
        "notyet: DuckDB's average of decimals is a double",
    ),
    ("folder", "groups by the collation"): (AssertionError, BYTES),
    ("server", "groups by the collation"): (AssertionError, BYTES),
    ("sql", "groups by the collation"): (AssertionError, NO_COLLATIONS),
    ("jar", "groups by the collation"): (AssertionError, BYTES),
    ("sql", "the _tidb_rowid of a row"): (
        SqlError,
        "notimpl: SQL sees the columns that SELECT * shows",
    ),
    ("python source", "a decimal of 41 digits"): (AssertionError, SHORT_DECIMALS),
    ("jar", "a decimal of 41 digits"): (AssertionError, SHORT_DECIMALS),
    ("sql", "a decimal of 41 digits"): (
        UnrepresentableValueError,
        "notyet: DuckDB's decimals have 38 digits",
    ),
    ("sql", "a time"): (
        AssertionError,
        "notyet: DuckDB's times of day end at 24 hours, so it comes as an interval",
    ),
    ("sql", "a missing column"): (SqlError, "never: DuckDB resolves the names of columns"),
}


def folder(store: Path, read: Read, undo: ExitStack) -> Rows:
    snapshot = undo.enter_context(open_snapshot(store, TimeStamp(read.ts)))
    request = PlanRequest(
        filter=read.filter, aggregation=read.aggregation, limit=read.limit, order=read.order
    )
    presentation = present.Presentation(present.ZeroDates(read.zero_dates))
    plan = snapshot.plan(
        read.table, read.columns, presentation, read.where or None, pushed=pushed_of(request)
    )
    return received(read, (batch for task in plan.tasks for batch in read_task(task)))


def server(store: Path, read: Read, undo: ExitStack) -> Rows:
    address = undo.enter_context(serving(store, f"unix:{store.parent}/s")).address
    api = undo.enter_context(connect(address))
    plan = api.plan(
        read.table,
        read.columns,
        moment=Moment(read.ts),
        where=read.where,
        presentation=Presentation(read.zero_dates),
        filter=read.filter,
        aggregation=read.aggregation,
        limit=read.limit,
        order=read.order,
    )
    return received(read, api.read(plan))


def python_source(store: Path, read: Read, undo: ExitStack) -> Rows:
    options = {"columns": ",".join(read.columns or ()), "where": read.where}
    texts = {name: text for name, text in options.items() if text}
    fixed = {"store": str(store), "path": read.table, "snapshot_ts": str(read.ts)}
    made = DefaultSource({**fixed, **texts, "zero_dates": read.zero_dates})
    reader = made.reader(made.schema())
    # Any filter will do: those that are not pushed down are returned.
    if read.filter is not None and list(reader.pushFilters([EqualTo(("name",), "tea")])):
        raise UnsupportedError("a filter", "the Python source")
    return received(read, (b for part in reader.partitions() for b in reader.read(part)))


def sql(store: Path, read: Read, undo: ExitStack) -> Rows:
    snapshot = undo.enter_context(open_snapshot(store, TimeStamp(read.ts)))
    presentation = present.Presentation(present.ZeroDates(read.zero_dates))
    with snapshot.sql(read.sql, presentation=presentation) as result:
        return rows_of(result)


WAYS: Mapping[str, Callable[[Path, Read, ExitStack], Rows]] = {
    "folder": folder,
    "server": server,
    "python source": python_source,
    "sql": sql,
}
JAR: Final = "jar"
"""The way that needs a Spark session."""


def jar(store: Path, read: Read, spark: "SparkSession") -> Rows:
    fixed = {"store": str(store), "snapshot_ts": str(read.ts), "zero_dates": read.zero_dates}
    reader = spark.read.format("theflash").options(**fixed)
    if read.filter is None and read.aggregation is None and not read.limit:
        options = {"columns": ",".join(read.columns or ()), "where": read.where}
        texts = {name: text for name, text in options.items() if text}
        frame = reader.options(**texts).load(read.table)
    else:
        query = read.sql.replace(f"FROM {read.table}", "FROM {table}")
        frame = spark.sql(query, table=reader.load(read.table))
    return [tuple(row) for row in frame.collect()]


def received(read: Read, batches: Iterator[pa.RecordBatch]) -> Rows:
    """Rows of the batches of a plan, with partial aggregates merged as a receiver does."""
    if read.aggregation is None:
        return rows_of(batches)
    partials = [row for batch in batches for row in batch.to_pylist()]
    return [(*key, *values) for key, values in merged(read.aggregation, partials).items()]


def rows_of(batches: Iterator[pa.RecordBatch]) -> Rows:
    return [
        row
        for batch in batches
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ]


def plain(rows: Rows, *, in_order: bool) -> Rows:
    """Rows with exact numbers of one type, sorted unless their order matters."""
    exact = [tuple(map(number, row)) for row in rows]
    return exact if in_order else sorted(exact, key=repr)


def number(value: Any) -> Any:
    return Fraction(value) if isinstance(value, int | Decimal | Fraction) else value


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that can be read from 100 to 300."""
    zero = parse_column(pa.array(["0000-00-00"]), DATES.columns[1].type, "day")
    tables = (ITEMS, NOTES, DATES, WIDE, TIMES)
    made = StoreBuilder(tmp_path_factory.mktemp("ways") / "store", *tables)
    first = [
        (1, 110, [1, "tea", Decimal("1.00"), date(2024, 2, 29), 1]),
        (4, 110, [4, "milk", Decimal("9.99"), None, None]),
    ]
    second = [
        (1, 210, [1, "tea", Decimal("1.50"), date(2024, 2, 29), 1]),
        (2, 210, [2, "TEA", Decimal("2.00"), None, 2]),
        (3, 210, [3, None, None, date(1999, 12, 31), None]),
        (4, 210, None),
    ]
    made.publish(200, {ITEMS: first})
    made.publish(
        300,
        {
            ITEMS: second,
            NOTES: [(5, 210, ["a note"])],
            DATES: [(1, 210, [1, zero.cast(pa.int32())[0].as_py()])],
            WIDE: [(1, 210, [1, HUGE])],
            TIMES: [(1, 210, [1, -timedelta(hours=838, minutes=59, seconds=59)])],
        },
    )
    return made.path


def cases(ways: Sequence[str]) -> list[Any]:
    """Each read by each of the ways, with the known gaps marked."""
    made = []
    for name, read in READS.items():
        for way in ways:
            if way == "python source" and not read.is_planned_with_spark:
                continue
            marks = []
            if (gap := GAPS.get((way, name))) is not None:
                marks = [pytest.mark.xfail(strict=True, raises=gap[0], reason=gap[1])]
            made.append(pytest.param(way, read, id=f"{way}: {name}", marks=marks))
    return made


def test_gaps_are_of_known_reads() -> None:
    assert {(way, read) for way in (*WAYS, JAR) for read in READS} >= set(GAPS)


@pytest.mark.parametrize(("way", "read"), cases(tuple(WAYS)))
def test_every_way_has_the_same_answer(way: str, read: Read, store: Path) -> None:
    with ExitStack() as undo:
        check(read, lambda: WAYS[way](store, read, undo))


@pytest.mark.parametrize(("way", "read"), cases([JAR]))
def test_spark_has_the_same_answer(
    way: str, read: Read, store: Path, spark: "SparkSession"
) -> None:
    # The class of an error of the package is part of the text of Spark's error.
    if isinstance(read.expected, list):
        check(read, lambda: jar(store, read, spark))
    else:
        with pytest.raises((PySparkException, Py4JJavaError), match=f"{read.expected.__name__}: "):
            jar(store, read, spark)


def check(read: Read, answer: Callable[[], Rows]) -> None:
    """Compare an answer with the expected rows, or its error with the expected class."""
    if isinstance(read.expected, list):
        rows = plain(answer(), in_order=read.has_order)
        assert rows == plain(read.expected, in_order=read.has_order)
    else:
        with pytest.raises(read.expected):
            answer()
