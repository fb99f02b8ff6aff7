"""Aggregates over captured workloads: TiDB's own answers, through plans and through tasks."""

import decimal
import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    LeaseExpiredError,
    StoreMismatchError,
    UnsupportedError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.read import read_task
from pyspark_theflash.read.plan.scan_plan import ScanPlan, ScanTask
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.present import Presentation, ZeroDates
from pyspark_theflash.read.pushdown.fold import Folding
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.read.pushdown.term import SortKey
from pyspark_theflash.service.api.pushed import pushed_of
from pyspark_theflash.service.wire.message import Aggregate, Aggregation, Expression, PlanRequest
from tests.support.pushed_cases import call, literal
from tests.support.pushed_cases import column as of
from tests.support.workloads import NAMES, workload

Stores = Callable[[str], Path]
SHOWN = Presentation(ZeroDates.STRING)
ONE = literal("decimal", "1")
PRICE, DISCOUNT, SHIPPED = of("l_extendedprice"), of("l_discount"), of("l_shipdate")
DISC = call("*", PRICE, call("-", ONE, DISCOUNT))
CHARGE = call("*", DISC, call("+", ONE, of("l_tax")))
SUMS = (of("l_quantity"), PRICE, DISC, CHARGE, DISCOUNT)


def day(text: str) -> Expression:
    """A date."""
    return literal("date", str(pa.scalar(text).cast(pa.date32()).cast(pa.int32())))


def sums(*arguments: Expression) -> Sequence[Aggregate]:
    """Of each."""
    return [Aggregate("sum", argument) for argument in arguments]


REQUESTS = {
    "q1": PlanRequest(
        filter=call("<=", SHIPPED, day("1998-09-02")),
        aggregation=Aggregation(
            ("L_RETURNFLAG", "L_LINESTATUS"), (*sums(*SUMS), Aggregate("count"))
        ),
    ),
    "q6": PlanRequest(
        filter=call(
            "and",
            call(">=", SHIPPED, day("1994-01-01")),
            call("<", SHIPPED, day("1995-01-01")),
            call(">=", DISCOUNT, literal("decimal", "0.05")),
            call("<=", DISCOUNT, literal("decimal", "0.07")),
            call("<", of("l_quantity"), literal("int", "24")),
        ),
        aggregation=Aggregation((), tuple(sums(call("*", PRICE, DISCOUNT)))),
    ),
    "sums": PlanRequest(
        aggregation=Aggregation(
            (),
            (
                Aggregate("count"),
                *sums(of("l_orderkey"), of("l_partkey"), of("l_quantity"), PRICE),
                Aggregate("min", SHIPPED),
                Aggregate("max", SHIPPED),
            ),
        )
    ),
}


def merged(plan: ScanPlan, partials: Sequence[pa.RecordBatch]) -> pa.Table:
    """The aggregate that partials make."""
    aggregation = plan.pushed.aggregation
    assert aggregation is not None
    return pa.Table.from_batches([Folding(aggregation, plan.rows_schema).merged(partials)])


def partials_of(tasks: Sequence[ScanTask]) -> list[pa.RecordBatch]:
    return [batch for task in tasks for batch in read_task(task)]


def test_tidbs_answers(workload_store: Stores) -> None:
    answers = json.loads((workload("tpch").folder / "truth" / "queries.json").read_text())
    compared = 0
    for answer in (a for a in answers if a["query"] in REQUESTS):
        pushed = pushed_of(REQUESTS[answer["query"]])
        with open_snapshot(workload_store("tpch"), TimeStamp(answer["ts"])) as snapshot:
            plan = snapshot.plan("tpch.lineitem", pushed=pushed)
            table = merged(plan, list(snapshot.held(plan)))
        truth = answer["rows"]
        if answer["query"] == "sums":
            # The last is of lengths, which are not pushed.
            truth = [row[:-1] for row in truth]
        assert list(TIDB[answer["query"]](table)) == truth, answer["ts"]
        compared += 1
    assert compared >= 9


def _q1(table: pa.Table) -> Iterator[list[str]]:
    """TPC-H Q1 from sums and a count; TiDB's averages have four digits more."""
    for row in sorted(map(tuple, (r.values() for r in table.to_pylist()))):
        *groups, quantity, price, discounted, charged, discount, count = row
        averages = [average(v, count) for v in (quantity, price, discount)]
        yield list(map(str, [*groups, quantity, price, discounted, charged, *averages, count]))


def average(total: decimal.Decimal, count: int) -> decimal.Decimal:
    return (total / count).quantize(decimal.Decimal("0.000001"), decimal.ROUND_HALF_UP)


def _sums(table: pa.Table) -> Iterator[list[str]]:
    for row in table.to_pylist():
        yield [str(value) for value in row.values()]


TIDB: dict[str, Callable[[pa.Table], Iterator[list[str]]]] = {"q1": _q1, "q6": _sums, "sums": _sums}


@pytest.mark.parametrize("name", NAMES)
def test_every_column_aggregates_as_its_scan_does(name: str, workload_store: Stores) -> None:
    """Counts of all columns and rows, through pickled tasks, against the rows themselves."""
    with open_snapshot(workload_store(name)) as snapshot:
        for table in snapshot.tables():
            counted = [Aggregate("count", of(c.name)) for c in table.public_columns]
            wanted = Aggregation((), (Aggregate("count"), *counted))
            pushed = pushed_of(PlanRequest(aggregation=wanted))
            plan = snapshot.plan(table.full_name, None, SHOWN, pushed=pushed)
            tasks = pickle.loads(pickle.dumps(plan.tasks))
            counts = [0] * (len(counted) + 1)
            for batch in snapshot.scan(table.full_name, None, SHOWN):
                counts[0] += batch.num_rows
                for at, column in enumerate(batch.columns, 1):
                    counts[at] += len(column) - column.null_count
            partials = partials_of(tasks)
            assert len(partials) == len(tasks)
            rows = [partial.to_pylist()[0].values() for partial in partials]
            totals = [sum(each) for each in zip(*rows, strict=True)]
            assert totals == (counts if partials else []), table.full_name


def test_a_condition_of_the_plan_counts_too(workload_store: Stores) -> None:
    with open_snapshot(workload_store("tpch")) as snapshot:
        where = "l_comment like '%furious%'"
        rows = sum(b.num_rows for b in snapshot.scan("tpch.lineitem", [], where=where))
        counting = pushed_of(PlanRequest(aggregation=Aggregation((), (Aggregate("count"),))))
        plan = snapshot.plan("tpch.lineitem", None, where=where, pushed=counting)
        assert merged(plan, list(snapshot.held(plan))).to_pylist() == [{"a0": rows}]
        contained = call("contains", of("l_comment"), literal("string", "furious"))
        both = Pushdown(pushed_of(PlanRequest(filter=contained)).filter, counting.aggregation)
        plan = snapshot.plan("tpch.lineitem", None, where="l_orderkey < 20000", pushed=both)
        texts = snapshot.scan("tpch.lineitem", ["L_COMMENT"], where="l_orderkey < 20000")
        rows = sum("furious" in row["L_COMMENT"] for batch in texts for row in batch.to_pylist())
        assert merged(plan, list(snapshot.held(plan))).to_pylist() == [{"a0": rows}]
        assert rows


def test_first_rows_are_those_of_the_scan(workload_store: Stores) -> None:
    order = (SortKey("l_extendedprice", True), SortKey("l_orderkey"), SortKey("l_linenumber"))
    names = ["L_COMMENT", "L_SHIPMODE", "L_EXTENDEDPRICE", "L_ORDERKEY", "L_LINENUMBER"]
    where = "l_tax > 0.01"
    with open_snapshot(workload_store("tpch")) as snapshot:
        plan = snapshot.plan(
            "tpch.lineitem", names, where=where, pushed=Pushdown(None, None, 7, order)
        )
        candidates = [row for batch in snapshot.held(plan) for row in batch.to_pylist()]
        every = [
            row for b in snapshot.scan("tpch.lineitem", names, where=where) for row in b.to_pylist()
        ]

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return -row["L_EXTENDEDPRICE"], row["L_ORDERKEY"], row["L_LINENUMBER"]

    assert len(candidates) == 7 * len(plan.tasks) < len(every)
    assert sorted(candidates, key=place)[:7] == sorted(every, key=place)[:7]


def test_a_task_that_cannot_be_right_raises(
    workload_copy: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    workload_copy("tpch", store)
    with open_snapshot(store) as snapshot:
        columns = snapshot.table("tpch.lineitem").public_columns
        highest = Aggregation((), tuple(Aggregate("max", of(c.name)) for c in columns))
        pushed = pushed_of(PlanRequest(aggregation=highest))
        tasks = snapshot.plan("tpch.lineitem", pushed=pushed).tasks
        for file in (store / "data").rglob("*.parquet"):
            content = bytearray(file.read_bytes())
            content[len(content) // 3] ^= 16
            file.write_bytes(content)
        with pytest.raises(CorruptionError):
            partials_of(tasks)
    with pytest.raises(LeaseExpiredError):
        partials_of(tasks)
    shutil.rmtree(store)
    with pytest.raises(StoreMismatchError):
        partials_of(tasks)


@pytest.mark.parametrize(
    "argument",
    [
        of("l_comment"),
        of("l_shipdate"),
        call("*", of("l_orderkey"), PRICE),
        call("+", PRICE, literal("double", "1")),
        call("/", PRICE, DISCOUNT),
        call("+", ONE, ONE),
        ONE,
    ],
)
def test_what_would_not_be_exact_is_refused(workload_store: Stores, argument: Expression) -> None:
    pushed = pushed_of(PlanRequest(aggregation=Aggregation((), tuple(sums(argument)))))
    with open_snapshot(workload_store("tpch")) as snapshot, pytest.raises(UnsupportedError):
        snapshot.plan("tpch.lineitem", pushed=pushed)
