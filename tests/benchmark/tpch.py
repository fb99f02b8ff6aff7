"""TPC-H's 22 queries with Spark over a store, against Spark on Parquet.

The tables are tpchgen-cli's. Both must give the same answers. Each round runs every query on both,
one after the other; a figure is the median over the rounds, with its 95% interval for all queries.

`--full` is scale 1 (6 M lines) and not 0.1, and takes 3 GB of disk.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, Row, SparkSession

from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.benchmark.bulk import make_store, publish
from tests.benchmark.process import run_apart
from tests.benchmark.report import Line, interval
from tests.benchmark.system import PARQUET, session

GENERATOR = Path(sys.executable).with_name("tpchgen-cli")
OURS = "ours"
TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
UTF8 = {"flen": 255, "collate": "utf8mb4_bin"}


def main(arguments: Sequence[str] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.tpch")
    parser.add_argument("--full", action="store_true", help="scale 1")
    parser.add_argument("--scale", help="1 has 6 M lines")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generator", type=Path, default=GENERATOR)
    chosen = parser.parse_args(arguments)
    scale = chosen.scale or ("1" if chosen.full else "0.1")
    print(
        f"TPC-H, scale {scale}: seconds on Parquet, here; Parquet's time / ours (higher is better)"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [chosen.generator, "parquet", "-s", scale, f"--output-dir={folder / 'made'}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run_apart(_load, folder / "store", folder / "made", pinned=False)
        spark = session(OURS, folder, memory="6g")
        try:
            _compare(_tables(spark, folder), chosen.rounds)
        finally:
            spark.stop()


def queries() -> Mapping[str, str]:
    """The queries by number."""
    text = Path(__file__).with_suffix(".sql").read_text()
    parts = re.split(r"^-- (\d+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _load(store: Path, made: Path) -> None:
    """Every table as row versions; rows are identified by a `_tidb_rowid`."""
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


def _tables(spark: SparkSession, folder: Path) -> Mapping[str, Mapping[str, DataFrame]]:
    """Those of the store, and the same as Spark itself writes them."""
    reader = spark.read.format("theflash").option("store", str(folder / "store"))
    for name in TABLES:
        made, plain = folder / "made" / f"{name}.parquet", folder / PARQUET / name
        spark.read.parquet(str(made)).write.parquet(str(plain))
    return {
        PARQUET: {name: spark.read.parquet(str(folder / PARQUET / name)) for name in TABLES},
        OURS: {name: reader.load(f"tpch.{name}") for name in TABLES},
    }


def _compare(systems: Mapping[str, Mapping[str, DataFrame]], rounds: int) -> None:
    totals = {name: np.zeros(rounds) for name in systems}
    for number, text in queries().items():
        answers = {name: _run(tables, text)[0] for name, tables in systems.items()}
        if answers[OURS] != answers[PARQUET]:
            raise AssertionError(f"query {number} has another answer than on Parquet")
        taken: dict[str, list[float]] = {name: [] for name in systems}
        for at in range(rounds):
            for name in (list(systems), list(reversed(systems)))[at % 2]:
                taken[name].append(_run(systems[name], text)[1])
        for name, seconds in taken.items():
            totals[name] += seconds
        ratios = [p / o for p, o in zip(taken[PARQUET], taken[OURS], strict=True)]
        _show(f"Q{number}, {len(answers[OURS])} rows", taken, f"{statistics.median(ratios):.2f}")
    _show("all", totals, interval(totals[PARQUET] / totals[OURS]))


def _run(tables: Mapping[str, DataFrame], text: str) -> tuple[list[Row], float]:
    """A query's answer and how long it takes."""
    for name, table in tables.items():
        table.createOrReplaceTempView(name)
    started = time.perf_counter()
    answer = table.sparkSession.sql(text).collect()
    return answer, time.perf_counter() - started


def _show(name: str, taken: Mapping[str, Sequence[float]], ratio: str) -> None:
    parquet, ours = (statistics.median(taken[system]) for system in (PARQUET, OURS))
    Line(name, f"{parquet:.2f} s, {ours:.2f} s", ratio).show()


if __name__ == "__main__":
    main(sys.argv[1:])
