"""The promise through Spark: what it reads at a timestamp is what TiDB answered there."""

import json
from collections import defaultdict
from datetime import datetime, timezone
from decimal import Decimal
from functools import reduce

import pyarrow.compute as pc
import pytest
from pyspark.sql import DataFrame
from pyspark.sql.functions import lit

from pyspark_theflash.base.types import from_physical_ms, physical_ms
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.present import TEXT, Presentation, ZeroDates
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN
from tests.support.spark_digest import spark_digest
from tests.support.workloads import NAMES, workload

AT = "snapshot_ts"
HAVE_ZERO_DATES = ("ddl_a.cc", "ddl_a.lk", "ddl_a.nk", "ddl_a.ty")


def answers_by_table():
    """(workload, table) -> TiDB's answers at all timestamps."""
    answers = defaultdict(list)
    for name in NAMES:
        for answer in workload(name).answers():
            answers[name, answer.table].append(answer)
    return answers


ANSWERS = answers_by_table()
QUERIES = json.loads((workload("tpch").folder / "truth" / "queries.json").read_text())
INVARIANT = json.loads((workload("bank").folder / "invariant.json").read_text())


@pytest.fixture(params=["jar", pytest.param("python", marks=pytest.mark.slow)])
def load(request, workload_store):
    """Load a table of a workload's store."""
    source = request.getfixturevalue(request.param)

    def load(name, table, **options):
        return source.reader(workload_store(name), **options).load(table)

    return load


@pytest.fixture
def view(load):
    """Name a workload's tables as of one timestamp, for SQL."""

    def view(name, snapshot_ts, *tables):
        for table in tables:
            frame = load(name, f"{name}.{table}", snapshot_ts=snapshot_ts)
            frame.createOrReplaceTempView(table)

    return view


def union(frames):
    return reduce(DataFrame.unionAll, frames)


def cases(*, long):
    """(form, workload, table): in Spark's types, and in TiDB's texts. Those that take long."""
    return [
        pytest.param(form, name, table, id=f"{table}-{form}")
        for name, table in ANSWERS
        for form in ("native", "text")
        if (name == "ddl" or form == "text") == long
    ]


def presentation_of(form, table):
    if form == "text":
        return TEXT
    return Presentation(ZeroDates.STRING if table in HAVE_ZERO_DATES else ZeroDates.RAISE)


@pytest.fixture
def check(load, workload_store):
    """Compare answers about a table: those of one schema in one Spark action."""

    def check(form, name, table, choose):
        by_columns = defaultdict(list)
        for answer in ANSWERS[name, table]:
            with open_snapshot(workload_store(name), answer.snapshot_ts) as snapshot:
                columns = snapshot.table(table).public_columns
            by_columns[columns].append(answer)
        for columns, answers in by_columns.items():
            chosen = choose(answers)
            shown = [*columns, ROWID_COLUMN] if chosen[0].checksum_with_rowid else list(columns)
            presentation = presentation_of(form, table)
            options = {
                "columns": ",".join(column.name for column in shown),
                "zero_dates": presentation.zero_dates.value,
                "all_as_text": presentation.as_text,
            }
            frames = [
                load(name, table, snapshot_ts=a.snapshot_ts, **options).withColumn(
                    AT, lit(str(a.snapshot_ts))
                )
                for a in chosen
            ]
            check_rows(union(frames).toArrow(), shown, presentation, chosen)

    return check


def check_rows(read, columns, presentation, answers):
    for answer in answers:
        at = pc.equal(read.column(AT), str(answer.snapshot_ts))
        rows = read.filter(at).drop_columns([AT])
        whole = spark_digest(rows, columns, presentation)
        assert whole.rows == answer.rows, answer
        if answer.checksum_with_rowid:
            assert whole.hexdigest() == answer.checksum_with_rowid, answer
            whole = spark_digest(rows.select(range(len(columns) - 1)), columns[:-1], presentation)
        assert whole.hexdigest() == answer.checksum, answer


@pytest.mark.parametrize(("form", "name", "table"), cases(long=False))
def test_every_answer(check, form, name, table):
    check(form, name, table, choose=lambda answers: answers)


@pytest.mark.parametrize(("form", "name", "table"), cases(long=True))
def test_an_answer_of_every_schema(check, form, name, table):
    check(form, name, table, choose=lambda answers: answers[-1:])


@pytest.mark.slow
@pytest.mark.parametrize(("form", "name", "table"), cases(long=True))
def test_every_other_answer(check, form, name, table):
    check(form, name, table, choose=lambda answers: answers)


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q['query']}-{q['ts']}")
def test_tpch_query(spark, view, query):
    view("tpch", query["ts"], "orders", "lineitem")
    rows = spark.sql(query["sql"]).collect()
    assert [[plain(value) for value in row] for row in rows] == [
        [plain(text) for text in row] for row in query["rows"]
    ]


def plain(value):
    """TiDB's text and Spark's value of the same number are equal; other values by their text."""
    text = str(value)
    return Decimal(text) if text.lstrip("-").replace(".", "", 1).isdigit() else text


def test_money_is_neither_made_nor_lost(load):
    """Five tables of one timestamp in one query, at some of TiDB's."""
    tables = sorted(table for name, table in ANSWERS if name == "bank")
    moments = [int(ts) for ts in INVARIANT["sum_at_each_truth_ts"]][::10]
    frames = [
        load("bank", table, snapshot_ts=ts, columns="balance").withColumn(AT, lit(str(ts)))
        for ts in moments
        for table in tables
    ]
    sums = union(frames).groupBy(AT).sum("balance").collect()
    assert {int(ts): int(total) for ts, total in sums} == dict.fromkeys(moments, INVARIANT["total"])


@pytest.mark.parametrize("ts", [a.snapshot_ts for a in ANSWERS["tpcc", "tpcc.orders"][::4]])
def test_joined_tables_are_of_one_moment(spark, view, ts):
    """TPC-C's consistency conditions 1 to 3 and 5: each transaction keeps them over its tables."""
    view("tpcc", ts, "warehouse", "district", "orders", "new_order")
    torn = spark.sql(
        """
        WITH o AS (SELECT o_d_id d, max(o_id) newest, count_if(o_carrier_id IS NULL) open
                   FROM orders GROUP BY 1),
             n AS (SELECT no_d_id d, max(no_o_id) newest, min(no_o_id) oldest, count(*) open
                   FROM new_order GROUP BY 1)
        SELECT 'paid' AS what FROM warehouse
            WHERE w_ytd <> (SELECT sum(d_ytd) FROM district)
        UNION ALL SELECT 'numbered' FROM district LEFT JOIN o ON o.d = d_id
            WHERE o.newest IS DISTINCT FROM d_next_o_id - 1
        UNION ALL SELECT 'pending' FROM o JOIN n ON n.d = o.d
            WHERE n.newest <> o.newest OR n.newest - n.oldest + 1 <> n.open OR n.open <> o.open
        """
    ).collect()
    assert torn == []


def test_time_is_the_first_timestamp_of_its_millisecond(load, workload_store):
    table, answer = "bank.acc_int", ANSWERS["bank", "bank.acc_int"][10]
    milliseconds = physical_ms(answer.snapshot_ts)
    time = datetime.fromtimestamp(milliseconds // 1000, timezone.utc)
    rows = load("bank", table, timestampAsOf=f"{time:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03}Z")
    with open_snapshot(workload_store("bank"), from_physical_ms(milliseconds)) as snapshot:
        expected = snapshot.digest(table).hexdigest()
        columns = snapshot.table(table).public_columns
    assert spark_digest(rows.toArrow(), columns).hexdigest() == expected
