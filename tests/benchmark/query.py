"""The speed of aggregates over a snapshot of lineitem, against pyarrow and the plain scan.

The rows are those of `tests.benchmark.scan`. `ours` is the partial aggregate and its merging in one
process; beside it stand DuckDB itself on clean Parquet, which verifies no checksum; pyarrow reading
clean Parquet and aggregating it; and our plain scan with pyarrow aggregating its batches, as a
reader without push-down does. CPU time over all threads; ratios are theirs to ours (higher
is better).
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.pushdown.fold import Folding
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.read.pushdown.term import (
    Aggregate,
    AggregateFunction,
    Aggregation,
    ColumnTerm,
    FunctionTerm,
    LiteralKind,
    LiteralTerm,
    Term,
    column_names,
)
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication, VersionBatch
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.storage.store.catalog import schema_records
from pyspark_theflash.storage.store.feed import Feed, feed_record
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.benchmark.report import Line
from tests.support.workloads import make_store, workload

ROUNDS = 5
COPIES = 4
BATCH_ROWS = 40_000
OLDEST, NEWEST = TimeStamp(1), TimeStamp(1 << 40)
NAME = "tpch.lineitem"
DISC = "L_EXTENDEDPRICE * (1 - L_DISCOUNT)"
Q1_SUMS = ("L_QUANTITY", "L_EXTENDEDPRICE", DISC, f"{DISC} * (1 + L_TAX)", "L_DISCOUNT")
Q6_WHERE = (
    "L_SHIPDATE >= '1994-01-01' and L_SHIPDATE < '1995-01-01' "
    "and L_DISCOUNT between 0.05 and 0.07 and L_QUANTITY < 24"
)
Q1_WHERE = "L_SHIPDATE <= '1998-09-02'"


def _pushed(groups: str, *sums: Term, where: Term | None = None) -> Pushdown:
    aggregates = (
        *(Aggregate(AggregateFunction.SUM, term) for term in sums),
        Aggregate(AggregateFunction.COUNT),
    )
    return Pushdown(where, Aggregation(tuple(groups.split()), aggregates))


def _call(name: str, *arguments: Term) -> Term:
    return FunctionTerm(name, arguments)


def _day(text: str) -> Term:
    return LiteralTerm(LiteralKind.DATE, int(np.datetime64(text).astype(np.int64)))


QUANTITY, PRICE, DISCOUNT, TAX, SHIPPED = map(
    ColumnTerm, ("L_QUANTITY", "L_EXTENDEDPRICE", "L_DISCOUNT", "L_TAX", "L_SHIPDATE")
)
ONE = LiteralTerm(LiteralKind.INT, 1)
DISCOUNTED = _call("*", PRICE, _call("-", ONE, DISCOUNT))
CHARGE = _call("*", DISCOUNTED, _call("+", ONE, TAX))
Q6_FILTER = _call(
    "and",
    _call(">=", SHIPPED, _day("1994-01-01")),
    _call("<", SHIPPED, _day("1995-01-01")),
    _call(">=", DISCOUNT, LiteralTerm(LiteralKind.DECIMAL, Decimal("0.05"))),
    _call("<=", DISCOUNT, LiteralTerm(LiteralKind.DECIMAL, Decimal("0.07"))),
    _call("<", QUANTITY, LiteralTerm(LiteralKind.INT, 24)),
)
Q1_FILTER = _call("<=", SHIPPED, _day("1998-09-02"))
QUERIES = {
    "count(*)": _pushed(""),
    "sum of 1": _pushed("", PRICE),
    "Q6": _pushed("", _call("*", PRICE, DISCOUNT), where=Q6_FILTER),
    "Q1": _pushed(
        "L_RETURNFLAG L_LINESTATUS", QUANTITY, PRICE, DISCOUNTED, CHARGE, DISCOUNT, where=Q1_FILTER
    ),
    "group by string": _pushed("L_SHIPMODE", QUANTITY),
}
TEXTS = {
    "count(*)": "SELECT count(*) FROM t",
    "sum of 1": "SELECT sum(L_EXTENDEDPRICE), count(*) FROM t",
    "Q6": f"SELECT sum(L_EXTENDEDPRICE * L_DISCOUNT), count(*) FROM t WHERE {Q6_WHERE}",
    "Q1": f"SELECT {', '.join(f'sum({s})' for s in Q1_SUMS)}, count(*) FROM t WHERE {Q1_WHERE} "
    "GROUP BY L_RETURNFLAG, L_LINESTATUS",
    "group by string": "SELECT sum(L_QUANTITY), count(*) FROM t GROUP BY L_SHIPMODE",
    "top 10": "SELECT * FROM t ORDER BY L_EXTENDEDPRICE DESC, L_ORDERKEY LIMIT 10",
}


def main() -> None:
    """Print the figures."""
    print("aggregates over lineitem: their CPU time / ours (higher is better)")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(workload("tpch"), Path(folder) / "tpch")
        with open_snapshot(store) as snapshot:
            table = snapshot.table(NAME)
            once = pa.Table.from_batches(snapshot.scan(NAME))
        lines = pa.concat_tables([once] * COPIES).combine_chunks()
        for percent in (0, 1, 10):
            path = Path(folder) / f"store{percent}"
            _make(path, table, lines, percent)
            with open_snapshot(path) as snapshot:
                _compare(snapshot, path / "plain.parquet", f"{percent}% updated")


def _make(path: Path, table: TableInfo, lines: pa.Table, percent: int) -> None:
    """The rows under new handles, and updates of a share of them in separate files."""
    fs = LocalFileSystem()
    registry.create(path, registry.MAGIC, fs)
    columns = [scan_column(table, column) for column in table.public_columns]
    schema = version_schema(pa.int64(), [(c.id, c.type) for c in columns])
    every = np.arange(len(lines))
    rng = np.random.default_rng(percent)
    updated = np.sort(rng.choice(every, len(lines) * percent // 100, replace=False))
    physical_id = PhysicalTableID(table.id)
    with closing(MagicEngine(path, fs, SystemClock())) as engine:
        for rows, ts in ((every, 10), (updated, 1 << 30)):
            for start in range(0, len(rows), BATCH_ROWS):
                part = rows[start : start + BATCH_ROWS]
                stamps = np.arange(ts + start, ts + start + len(part), dtype=np.uint64)
                ops = np.full(len(part), Op.PUT, np.uint8)
                values = lines.take(pa.array(part)).combine_chunks().columns
                arrays = [pa.array(part), pa.array(stamps), pa.array(stamps), pa.array(ops)]
                chunks = [*arrays, *(column.chunk(0) for column in values)]
                batch = pa.RecordBatch.from_arrays(chunks, schema=schema)
                engine.publish(Publication([VersionBatch(physical_id, batch)], ManifestChange()))
            if ts == 10:
                engine.compact(physical_id, columns, everything=True)
        events = [TableEvent(OLDEST, table.db, table.id, table)]
        history = SchemaHistory(OLDEST, NEWEST, events, ())
        records = [
            feed_record(Feed.API),
            *schema_records(history),
            Progress(OLDEST, NEWEST).to_record(),
        ]
        engine.publish(Publication([], ManifestChange(records)))


def _compare(snapshot: ReadSnapshot, plain: Path, what: str) -> None:
    pq.write_table(pa.Table.from_batches(snapshot.scan(NAME)), plain, store_decimal_as_integer=True)
    plan = snapshot.plan(NAME)
    strings = [c.name for c in plan.columns if c.type.tp in STRING_TYPES]
    for name, text in TEXTS.items():
        pushed = QUERIES.get(name)
        columns = None if pushed is None else _columns(pushed)

        def ours(pushed: Pushdown | None = pushed, text: str = text) -> object:
            if pushed is not None:
                return _aggregate(snapshot, pushed)
            with snapshot.sql(text.replace("FROM t", f"FROM {NAME}")) as result:
                return list(result)

        def scanned(columns: list[str] | None = columns, text: str = text) -> object:
            return _over(pa.Table.from_batches(snapshot.scan(NAME, columns)), text)

        def read(columns: list[str] | None = columns, text: str = text) -> object:
            table = pq.read_table(plain, columns=columns, read_dictionary=strings)
            return _over(table, text)

        def itself(text: str = text) -> object:
            with duckdb.connect() as connection:
                return connection.sql(text.replace("FROM t", f"FROM '{plain}'")).fetchall()

        mine = _cpu_seconds(ours)
        duck, arrow, scan = (_cpu_seconds(one) / mine for one in (itself, read, scanned))
        figures = f"DuckDB {duck:.2f}, pyarrow {arrow:.2f}, scan {scan:.2f}"
        Line(f"{what}, {name}", figures, f"{mine * 1000:.0f} ms of CPU").show()


def _money(text: str) -> pa.Scalar:
    return pa.scalar(Decimal(text), pa.decimal128(15, 2))


def _columns(pushed: Pushdown) -> list[str]:
    return list(dict.fromkeys([*pushed.more_columns, *column_names(pushed.filter)]))


def _aggregate(snapshot: ReadSnapshot, pushed: Pushdown) -> pa.RecordBatch:
    """The partials of all regions, put together."""
    plan = snapshot.plan(NAME, pushed=pushed)
    partials = list(snapshot.held(plan))
    if pushed.aggregation is None or len(plan.tasks) == 1:
        return partials[0]
    return Folding(pushed.aggregation, plan.rows_schema).merged(partials)


def _over(table: pa.Table, text: str) -> object:
    """The same in pyarrow, as far as it can: filtered, computed, grouped."""
    if text == TEXTS["count(*)"]:
        return table.num_rows
    if text == TEXTS["top 10"]:
        return table.take(pc.select_k_unstable(table, 10, [("L_EXTENDEDPRICE", "descending")]))
    if text == TEXTS["sum of 1"]:
        return pc.sum(table["L_EXTENDEDPRICE"])
    if text == TEXTS["group by string"]:
        return table.group_by("L_SHIPMODE").aggregate([("L_QUANTITY", "sum"), ([], "count_all")])
    if text == TEXTS["Q6"]:
        kept = table.filter(
            (pc.field("L_SHIPDATE") >= pa.scalar("1994-01-01").cast(pa.date32()))
            & (pc.field("L_SHIPDATE") < pa.scalar("1995-01-01").cast(pa.date32()))
            & (pc.field("L_DISCOUNT") >= _money("0.05"))
            & (pc.field("L_DISCOUNT") <= _money("0.07"))
            & (pc.field("L_QUANTITY") < _money("24.00"))
        )
        return pc.sum(pc.multiply(kept["L_EXTENDEDPRICE"], kept["L_DISCOUNT"]))
    kept = table.filter(pc.field("L_SHIPDATE") <= pa.scalar("1998-09-02").cast(pa.date32()))
    one = pa.scalar(Decimal(1), pa.decimal128(12, 0))
    disc = pc.multiply(kept["L_EXTENDEDPRICE"], pc.subtract(one, kept["L_DISCOUNT"]))
    tax = pc.add(one, kept["L_TAX"]).cast(pa.decimal128(5, 2))
    kept = kept.append_column("disc", disc).append_column(
        "charge", pc.multiply(disc.cast(pa.decimal128(20, 4)), tax)
    )
    summed = ["L_QUANTITY", "L_EXTENDEDPRICE", "disc", "charge", "L_DISCOUNT"]
    aggregates = [*((name, "sum") for name in summed), ([], "count_all")]
    return kept.group_by(["L_RETURNFLAG", "L_LINESTATUS"]).aggregate(aggregates)


def _cpu_seconds(work: Callable[[], object]) -> float:
    """The least of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


if __name__ == "__main__":
    main()
