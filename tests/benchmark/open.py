"""The time to open a store of very many tables: for a scan, for a list, for its writer.

20,000 tables of 16 columns; every fortieth has a file of a hundred rows. Each time is that of a new
process: reading is counted from after Python's imports, commands from their start.
"""

import gzip
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication, VersionBatch
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.storage.store.catalog import schema_records
from pyspark_theflash.storage.store.coverage import assumed_record
from pyspark_theflash.storage.store.feed import Feed, feed_record
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.testing.stores import column, id_column
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.benchmark.process import peak_rss_bytes, run_apart
from tests.benchmark.report import Line

PROJECT = Path(__file__).parents[2]
TABLES = 20_000
WITH_ROWS_EVERY = 40
ROWS = 100
ROUNDS = 3
TYPES = (
    *(MySQLType.LONGLONG, MySQLType.LONG, MySQLType.DOUBLE, MySQLType.VARCHAR, MySQLType.DATETIME),
    *(MySQLType.DATE, MySQLType.TIMESTAMP, MySQLType.VARCHAR, MySQLType.TINY, MySQLType.BLOB),
    *(MySQLType.YEAR, MySQLType.FLOAT, MySQLType.SHORT, MySQLType.TIME, MySQLType.VARCHAR),
)
START_TS, NOW = TimeStamp(100), TimeStamp(200)


def main() -> None:
    """Print the figures."""
    print(f"open: {TABLES:,} tables of {1 + len(TYPES)} columns, {ROWS} rows in some")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schema, store = _write_schema(folder), folder / "store"
        _build(store, schema)
        runs = [run_apart(read_one, store) for _ in range(ROUNDS)]
        first = min(runs, key=lambda run: run["total_ms"])
        parts = f"open {first['open_ms']:.0f}, plan {first['plan_ms']:.0f}"
        Line("first batch of one table", f"{first['total_ms']:.0f} ms", parts).show()
        Line("  peak RSS", f"{first['peak_rss'] / 2**20:.0f} MiB").show()
        (folder / "nothing").touch()
        nothing = ["--source", f"file:{folder / 'nothing'}", "--schema", f"file:{schema}"]
        Line("theflash --version", f"{_command('--version'):.2f} s", "imports alone").show()
        Line("theflash tables", f"{_command('tables', str(store)):.2f} s").show()
        Line("theflash status", f"{_command('status', str(store)):.2f} s").show()
        seconds = _command("writer", str(store), "--once", *nothing)
        Line("theflash writer --once, nothing new", f"{seconds:.2f} s").show()


def read_one(store: Path) -> dict[str, float]:
    """In a separate process: from its start to the first rows of one table."""
    began = time.perf_counter()
    with open_snapshot(store) as snapshot:
        opened = time.perf_counter()
        plan = snapshot.plan("many.t0")
        planned = time.perf_counter()
        rows = next(iter(snapshot.scan("many.t0"))).num_rows
        ended = time.perf_counter()
    if rows != ROWS or len(plan.tasks) != 1:
        raise ValueError(f"{rows} rows")
    return {
        "open_ms": 1000 * (opened - began),
        "plan_ms": 1000 * (planned - opened),
        "total_ms": 1000 * (ended - began),
        "peak_rss": peak_rss_bytes(),
    }


def _command(*arguments: str) -> float:
    """The shortest of some runs, in seconds."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        command = [sys.executable, "-m", "pyspark_theflash.cli.main", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=PROJECT)
        best = min(best, time.perf_counter() - started)
    return best


def _write_schema(folder: Path) -> Path:
    """A schema file with all tables, there from the start."""
    columns: list[dict[str, Any]] = [id_column()]
    columns += [column(f"c{n}", tp, flen=20) for n, tp in enumerate(TYPES)]
    numbered = [{"id": n + 1, "offset": n, **info} for n, info in enumerate(columns)]
    tables = [
        {"id": 1000 + n, "name": {"O": f"t{n}"}, "cols": numbered, "pk_is_handle": True, "state": 5}
        for n in range(TABLES)
    ]
    document = {
        "start_ts": START_TS,
        "end_ts": NOW,
        "initial": [{"ts": START_TS, "db": "many", "table": table} for table in tables],
        "changes": [],
        "schema_versions": [],
    }
    path = folder / "schema.json.gz"
    path.write_bytes(gzip.compress(json.dumps(document).encode(), 1))
    return path


def _build(store: Path, schema: Path) -> None:
    fs, history = LocalFileSystem(), read_schema_file(schema)
    identity = registry.create(store, registry.MAGIC, fs)
    tables = [event.table for event in history.events if event.table is not None]
    batches = [_rows(table) for table in tables[::WITH_ROWS_EVERY]]
    records = [feed_record(Feed.STREAM), assumed_record("*"), *schema_records(history)]
    records.append(Progress(START_TS, NOW).to_record())
    with closing(registry.open_engine(store, identity, fs, SystemClock())) as engine:
        engine.publish(Publication(batches, ManifestChange(records)))


def _rows(table: TableInfo) -> VersionBatch:
    columns = [(c.id, arrow_type(c.type)) for c in table.public_columns]
    schema = version_schema(pa.int64(), columns)
    handles, stamps = np.arange(ROWS), np.full(ROWS, START_TS + 1, np.uint64)
    system = [pa.array(handles), *[pa.array(stamps)] * 2, pa.array(np.full(ROWS, Op.PUT, np.uint8))]
    values = [pa.array(handles), *(pa.nulls(ROWS, tp) for _, tp in columns[1:])]
    batch = pa.RecordBatch.from_arrays([*system, *values], schema=schema)
    return VersionBatch(PhysicalTableID(table.id), batch)


if __name__ == "__main__":
    main()
