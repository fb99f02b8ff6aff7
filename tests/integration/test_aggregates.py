"""Aggregates over captured workloads: TiDB's own answers, through plans and through tasks."""

import decimal
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.errors import (
    ColumnNotFoundError,
    CorruptionError,
    LeaseExpiredError,
    StoreMismatchError,
    UnrepresentableValueError,
)
from pyspark_theflash.expression.evaluate import parse
from pyspark_theflash.planner.aggregate import aggregate_plan, aggregate_task
from pyspark_theflash.planner.present import NATIVE, Presentation, ZeroDates
from pyspark_theflash.planner.scan_plan import ScanPlan
from pyspark_theflash.planner.snapshot import Snapshot, open_snapshot
from pyspark_theflash.query.aggregate import Aggregate, AggregateRequest
from pyspark_theflash.types import TimeStamp
from tests.support.workloads import NAMES, workload

Stores = Callable[[str], Path]
SHOWN = Presentation(ZeroDates.STRING)
DISC = "l_extendedprice * (1 - l_discount)"
SUMS = ("l_quantity", "l_extendedprice", DISC, f"{DISC} * (1 + l_tax)", "l_discount")
REQUESTS = {
    "q1": AggregateRequest(
        ("L_RETURNFLAG", "L_LINESTATUS"),
        (*(Aggregate.of("sum", text) for text in SUMS), Aggregate.of("count")),
        parse("l_shipdate <= '1998-09-02'").tree,
    ),
    "q6": AggregateRequest(
        (),
        (Aggregate.of("sum", "l_extendedprice * l_discount"),),
        parse(
            "l_shipdate >= '1994-01-01' and l_shipdate < '1995-01-01' "
            "and l_discount between 0.05 and 0.07 and l_quantity < 24"
        ).tree,
    ),
    "sums": AggregateRequest(
        (),
        (
            Aggregate.of("count"),
            *(Aggregate.of("sum", c) for c in ("l_orderkey", "l_partkey", "l_quantity")),
            Aggregate.of("sum", "l_extendedprice"),
            *(Aggregate.of(f, "l_shipdate") for f in ("min", "max")),
        ),
    ),
}


def planned(
    snapshot: Snapshot, name: str, presentation: Presentation = NATIVE, *, dictionaries: bool
) -> ScanPlan:
    plan = snapshot.plan(name, None, presentation)
    return plan.with_dictionaries(snapshot.repeating(plan)) if dictionaries else plan


@pytest.mark.parametrize("dictionaries", [False, True])
def test_tidbs_answers(workload_store: Stores, dictionaries: bool) -> None:
    answers = json.loads((workload("tpch").folder / "truth" / "queries.json").read_text())
    compared = 0
    for answer in (a for a in answers if a["query"] in REQUESTS):
        with open_snapshot(workload_store("tpch"), TimeStamp(answer["ts"])) as snapshot:
            plan = planned(snapshot, "tpch.lineitem", dictionaries=dictionaries)
            table = aggregate_plan(snapshot, plan, REQUESTS[answer["query"]])
        truth = answer["rows"]
        if answer["query"] == "sums":
            # The last is of lengths, which are not pushed.
            truth = [row[:-1] for row in truth]
        assert list(TIDB[answer["query"]](table)) == truth, answer["ts"]
        compared += 1
    assert compared >= 9


def _q1(table: pa.Table) -> Iterator[list[str]]:
    """TPC-H Q1 out of sums and a count; TiDB's averages have four digits more."""
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
            columns = [c.name for c in table.public_columns]
            wanted = AggregateRequest(
                (), (Aggregate.of("count"), *(Aggregate.of("count", f"`{c}`") for c in columns))
            )
            plan = planned(snapshot, table.full_name, SHOWN, dictionaries=True)
            try:
                rows = aggregate_plan(snapshot, plan, wanted).to_pylist()
            except UnrepresentableValueError:
                # More than 38 digits; the scan has them.
                assert any(map(pa.types.is_decimal256, plan.schema.types)), table.full_name
                continue
            counts = [0] * (len(columns) + 1)
            for batch in snapshot.scan(table.full_name, None, SHOWN):
                counts[0] += batch.num_rows
                for at, column in enumerate(batch.columns, 1):
                    counts[at] += len(column) - column.null_count
            assert [list(row.values()) for row in rows] == [counts], table.full_name


def test_tasks_answer_for_their_region_alone(workload_store: Stores) -> None:
    wanted = REQUESTS["sums"]
    with open_snapshot(workload_store("tpch")) as snapshot:
        plan = planned(snapshot, "tpch.lineitem", dictionaries=True)
        whole = aggregate_plan(snapshot, plan, wanted).to_pylist()[0]
        tasks = pickle.loads(pickle.dumps(plan.tasks))
        partials = [row for t in tasks for b in aggregate_task(t, wanted) for row in b.to_pylist()]
    assert len(partials) == len(tasks) > 0
    assert sum(row["a0"] for row in partials) == whole["a0"]
    assert min(row["a5"] for row in partials) == whole["a5"]
    assert sum(row["a4"] for row in partials) == whole["a4"]


def test_a_condition_of_the_plan_counts_too(workload_store: Stores) -> None:
    with open_snapshot(workload_store("tpch")) as snapshot:
        where = "l_comment like '%furious%'"
        plan = snapshot.plan("tpch.lineitem", ["L_QUANTITY"], where=where)
        rows = sum(b.num_rows for b in snapshot.scan("tpch.lineitem", [], where=where))
        counted = aggregate_plan(snapshot, plan, AggregateRequest((), (Aggregate.of("count"),)))
        assert counted.to_pylist() == [{"a0": rows}]
        with pytest.raises(ColumnNotFoundError):
            aggregate_plan(snapshot, plan, REQUESTS["q6"])


def test_a_task_that_cannot_be_right_raises(workload_store: Stores, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(workload_store("tpch"), store)
    with open_snapshot(store) as snapshot:
        tasks = snapshot.plan("tpch.lineitem").tasks
        for file in (store / "data").rglob("*.parquet"):
            content = bytearray(file.read_bytes())
            content[len(content) // 3] ^= 16
            file.write_bytes(content)
        every = AggregateRequest((), tuple(Aggregate.of("max", c.name) for c in tasks[0].output))
        with pytest.raises(CorruptionError):
            answer(tasks, every)
    with pytest.raises(LeaseExpiredError):
        answer(tasks, every)
    shutil.rmtree(store)
    with pytest.raises(StoreMismatchError):
        answer(tasks, every)


def answer(tasks: Any, wanted: AggregateRequest) -> list[pa.RecordBatch]:
    return [batch for task in tasks for batch in aggregate_task(task, wanted)]
