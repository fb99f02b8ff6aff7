"""TPC-H's 22 queries with Spark over a store, against Spark on Parquet.

    pip install tpchgen-cli
    python -m tests.benchmark.tpch [--scale 1] [--rounds 3] [--generator tpchgen-cli]

Both must give the same answers. A figure is the median time over all rounds, in turns.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from pyspark_theflash.codec.field_type import MySQLType
from pyspark_theflash.schema.model import TableInfo
from tests.benchmark.bulk import make_store, publish
from tests.benchmark.report import Line
from tests.benchmark.spark import session
from tests.support.stores import column, table_info

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
UTF8 = {"flen": 255, "collate": "utf8mb4_bin"}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", default="1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generator", default="tpchgen-cli")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        command = [asked.generator, "parquet", "-s", asked.scale, f"--output-dir={made}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        _load(Path(folder) / "store", made)
        spark = session(Path(folder), ["ours"])
        try:
            _compare(spark, made, Path(folder), asked.rounds)
        finally:
            spark.stop()


def queries() -> Mapping[str, str]:
    """The queries by number."""
    text = Path(__file__).with_suffix(".sql").read_text()
    parts = re.split(r"^-- (\d+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _load(store: Path, made: Path) -> None:
    """Every table as row versions; rows are told apart by a `_tidb_rowid`."""
    schemas = {name: pq.read_schema(made / f"{name}.parquet") for name in TABLES}
    infos = {name: _info(n, name, schema) for n, (name, schema) in enumerate(schemas.items(), 1)}
    make_store(store, list(infos.values()))
    for name, info in infos.items():
        rows = pq.read_table(made / f"{name}.parquet")
        publish(store, info, rows, np.arange(len(rows)), 10, everything=True)


def _info(table_id: int, name: str, schema: pa.Schema) -> TableInfo:
    columns = [column(field.name, *_type(field.type)) for field in schema]
    for made, field in zip(columns, schema, strict=True):
        made["type"] |= _sizes(field.type)
    return table_info(table_id, f"tpch.{name}", columns, has_rowid=True)


def _type(tp: pa.DataType) -> tuple[MySQLType]:
    if pa.types.is_decimal(tp):
        return (MySQLType.NEWDECIMAL,)
    if pa.types.is_date(tp):
        return (MySQLType.DATE,)
    if pa.types.is_integer(tp):
        return (MySQLType.LONGLONG if tp.bit_width == 64 else MySQLType.LONG,)
    return (MySQLType.VARCHAR,)


def _sizes(tp: pa.DataType) -> dict[str, object]:
    if pa.types.is_decimal(tp):
        return {"Flen": tp.precision, "Decimal": tp.scale}
    return {"Flen": 255, "Collate": "utf8mb4_bin"} if _type(tp) == (MySQLType.VARCHAR,) else {}


def _compare(spark: SparkSession, made: Path, folder: Path, rounds: int) -> None:
    systems = {"parquet": _parquet(spark, made, folder / "parquet")}
    systems["ours"] = {
        name: spark.read.format("theflash")
        .option("store", str(folder / "store"))
        .load(f"tpch.{name}")
        for name in TABLES
    }
    total = dict.fromkeys(systems, 0.0)
    print("TPC-H: seconds on Parquet and here; parquet's time / ours (higher is better)")
    for number, text in queries().items():
        taken: dict[str, list[float]] = {name: [] for name in systems}
        answers = {}
        for at in range(rounds + 1):
            for name in (list(systems), list(reversed(systems)))[at % 2]:
                for table, frame in systems[name].items():
                    frame.createOrReplaceTempView(table)
                started = time.perf_counter()
                answers[name] = spark.sql(text).collect()
                if at:
                    taken[name].append(time.perf_counter() - started)
        if answers["ours"] != answers["parquet"]:
            raise AssertionError(f"query {number} has another answer than on Parquet")
        seconds = {name: statistics.median(times) for name, times in taken.items()}
        for name, time_s in seconds.items():
            total[name] += time_s
        _show(f"Q{number}", seconds)
    _show("all", total)


def _parquet(spark: SparkSession, made: Path, folder: Path) -> Mapping[str, DataFrame]:
    """The tables as Spark itself writes them."""
    for name in TABLES:
        spark.read.parquet(str(made / f"{name}.parquet")).write.parquet(str(folder / name))
    return {name: spark.read.parquet(str(folder / name)) for name in TABLES}


def _show(name: str, seconds: Mapping[str, float]) -> None:
    figures = f"{seconds['parquet']:.2f} s, {seconds['ours']:.2f} s"
    Line(name, figures, f"{seconds['parquet'] / seconds['ours']:.2f}").show()


if __name__ == "__main__":
    main()
