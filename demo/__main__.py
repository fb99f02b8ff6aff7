"""Replicates two captured TiDB histories and reads them with Spark, beside what TiDB answered.

    bank    eight sessions move money between five tables for 95 s: inserts, updates, deletes,
            changed keys, rollbacks, conflicts. The sum of all balances is the same at any time.
    tpch    orders and lineitem: loaded, then 5% of the orders changed, then 2% deleted

While they were recorded, TiDB was asked for all rows at chosen timestamps; their number and
checksum (by `tidb.codec.digest`) are in tests/fixtures. The exit status is 1 if anything differs.
"""

import io
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from decimal import Decimal
from functools import reduce
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from demo.report import Report, time_of_day
from demo.spark import prepare_environment, spark_session, submit_writer
from pyspark_theflash import open_snapshot
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cli.main import main as theflash
from tests.support.spark_digest import spark_digest
from tests.support.workloads import Answer, Workload, workload

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "demo"
LOG = FOLDER / "spark.log"
MOMENTS = 6
TPCH_QUERIES = {"q1": "price summary by flag and status", "q6": "revenue of discounts"}


def main() -> int:
    """Run it all; 1 if anything was not as TiDB answered."""
    prepare_environment()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    report, bank, tpch = Report(), workload("bank"), workload("tpch")
    print("TiDB's past, read by Spark; every answer stands beside the one TiDB gave at the time.")
    replicate(report, bank)
    replicate(report, tpch)
    with ExitStack() as stack:
        with report.step("Start Spark"):
            spark = stack.enter_context(spark_session(FOLDER, LOG))
        read_bank(report, bank, spark)
        query_tpch(report, tpch, spark)
    return conclude(report, bank)


def replicate(report: Report, chosen: Workload) -> None:
    """A new store, filled by the writer as a Spark job."""
    store = store_of(chosen)
    arguments = chosen.writer_arguments(store)
    with report.step(f"Replicate the binlog of `{chosen.name}`: the writer, as a Spark job"):
        report.say(f"$ theflash init {shown(store)}")
        report.say(init_store(store))
        report.say("$ spark-submit pyspark_theflash/jobs/writer.py " + on_lines(shown(*arguments)))
        report.say(submit_writer(arguments, LOG))


def init_store(store: Path) -> str:
    """Make an empty store, by the command line's own code; what it printed."""
    with redirect_stdout(io.StringIO()) as printed:
        status = theflash(["init", str(store)])
    if status != 0:
        raise SystemExit(f"no store could be made at {store}")
    return printed.getvalue().strip()


def read_bank(report: Report, bank: Workload, spark: SparkSession) -> None:
    """All tables at some of the timestamps, row by row, and a query over all of them."""
    total = json.loads((bank.folder / "invariant.json").read_text())["total"]
    with report.step(f"Read all tables of `bank` as they were at {MOMENTS} of its timestamps"):
        for ts, answers in chosen_answers(bank).items():
            report.say(f"snapshot_ts {ts}   {time_of_day(ts)} UTC")
            frames = [load(spark, bank, answer.table, ts).cache() for answer in answers]
            for frame, answer in zip(frames, answers, strict=True):
                report.say(compare_table(report, frame, answer, bank))
            balances = sum_of_balances(frames)
            report.say(
                f"  sum of all balances {balances:>12,}  {report.verdict(balances == total)}"
            )


def chosen_answers(bank: Workload) -> dict[TimeStamp, list[Answer]]:
    """TiDB's answers at a few of the timestamps it was asked at, evenly spread."""
    answers = defaultdict(list)
    for answer in bank.answers():
        answers[answer.snapshot_ts].append(answer)
    moments = sorted(answers)
    last = len(moments) - 1
    return {ts: answers[ts] for ts in (moments[n * last // (MOMENTS - 1)] for n in range(MOMENTS))}


def compare_table(report: Report, frame: DataFrame, answer: Answer, bank: Workload) -> str:
    """A table's line."""
    with open_snapshot(store_of(bank), answer.snapshot_ts) as snapshot:
        columns = snapshot.table(answer.table).public_columns
    digest = spark_digest(frame.toArrow(), columns)
    checksum = digest.hexdigest()
    verdict = report.verdict((digest.rows, checksum) == (answer.rows, answer.checksum))
    return f"  {answer.table:<14} {digest.rows:>4} rows  checksum {checksum}  {verdict}"


def sum_of_balances(frames: Sequence[DataFrame]) -> int:
    """One query over several tables, all of one moment."""
    balances = reduce(DataFrame.unionAll, [frame.select("balance") for frame in frames])
    return int(balances.groupBy().sum("balance").collect()[0][0])


def query_tpch(report: Report, tpch: Workload, spark: SparkSession) -> None:
    """Queries of TPC-H as of three timestamps: after the load, the updates, the deletes."""
    queries = json.loads((tpch.folder / "truth" / "queries.json").read_text())
    with report.step("Run TPC-H's Q1 and Q6 as of three timestamps of `tpch`"):
        for query in queries:
            if query["query"] not in TPCH_QUERIES:
                continue
            load(spark, tpch, "tpch.lineitem", query["ts"]).createOrReplaceTempView("lineitem")
            rows = [[plain(value) for value in row] for row in spark.sql(query["sql"]).collect()]
            verdict = report.verdict(rows == [[plain(v) for v in row] for row in query["rows"]])
            title = f"{query['query'].upper()}, {TPCH_QUERIES[query['query']]}"
            report.say(f"snapshot_ts {query['ts']}   {title:<36}  {verdict}")
            for row in rows:
                report.say("  " + "  ".join(str(value) for value in row))


def conclude(report: Report, bank: Workload) -> int:
    """The verdict, and what to do next."""
    print(f"\n{report.compared} answers compared in {report.seconds:.0f} s, ", end="")
    if report.different:
        print(f"{report.different} of them NOT what TiDB answered. Spark's messages: {shown(LOG)}")
        return 1
    store, ts = shown(store_of(bank)), list(chosen_answers(bank))[1]
    print(
        f"""all equal to TiDB's.

The stores stay in {shown(FOLDER)}. Try next:
   .venv/bin/theflash tables {store}
   .venv/bin/theflash scan {store} bank.acc_int --at {ts}
   . .venv/bin/activate; SPARK_LOCAL_IP=127.0.0.1 pyspark
      spark.read.format("theflash").option("store", "{store}") \\
           .option("timestampAsOf", "{time_of_day(ts)}Z").load("bank.acc_int").show()
   notebooks/01_quickstart.ipynb: time travel, with a picture"""
    )
    return 0


def load(spark: SparkSession, chosen: Workload, table: str, snapshot_ts: TimeStamp) -> DataFrame:
    """Load a table at a timestamp with the `theflash` source."""
    reader = spark.read.format("theflash").option("store", str(store_of(chosen)))
    return reader.option("snapshot_ts", snapshot_ts).load(table)


def store_of(chosen: Workload) -> Path:
    """Folder of the store that a workload is replicated to."""
    return FOLDER / chosen.name


def shown(*arguments: str | Path) -> str:
    """Arguments with paths as seen from the project's folder."""
    return " ".join(str(argument) for argument in arguments).replace(f"{ROOT}/", "")


def on_lines(arguments: str) -> str:
    """A long command, one option a line."""
    return arguments.replace(" --", " \\\n      --")


def plain(value: object) -> object:
    """TiDB's text and Spark's value of the same number become equal."""
    text = str(value)
    return Decimal(text) if text.lstrip("-").replace(".", "", 1).isdigit() else text


if __name__ == "__main__":
    sys.exit(main())
