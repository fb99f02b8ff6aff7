"""The speed of reading a snapshot of lineitem, against pyarrow on clean Parquet.

tpch's lineitem is repeated under new handles to some hundred thousand rows; then a share of the
rows, spread over all of them, is updated. Both sides decode every value into Arrow batches; the
peer holds just the visible rows, written with pyarrow's defaults. What is compared is CPU time,
over all threads. `recent`: the updates are still files of their own; `compacted`: the region files
have been rewritten, old versions included.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, Publication, ScanSpec, VersionBatch
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import Op, column_name, version_schema
from pyspark_theflash.storage.store.manifest import ManifestChange
from tests.benchmark.report import Line
from tests.support.workloads import make_store, workload

ROUNDS = 7
COPIES = 4
BATCH_ROWS = 40_000
TABLE = PhysicalTableID(1)
NEWEST = TimeStamp(1 << 40)
SOME = (6, 7)
"""The columns L_EXTENDEDPRICE and L_DISCOUNT."""


def main() -> None:
    """Print the figures."""
    print("scan of lineitem: our CPU time / pyarrow's on clean Parquet (lower is better)")
    with tempfile.TemporaryDirectory() as folder:
        lines = _lineitem(Path(folder))
        for percent in (0, 1, 10):
            _measure(Path(folder) / f"store{percent}", lines, percent)


def _measure(path: Path, lines: pa.Table, percent: int) -> None:
    fs = LocalFileSystem()
    registry.create(path, registry.MAGIC, fs)
    columns = [
        ScanColumn(ColumnID(n), f.type, Default(pa.scalar(None, f.type))) for n, f in _fields(lines)
    ]
    with closing(MagicEngine(path, fs, SystemClock())) as engine:
        every = np.arange(len(lines))
        _publish(engine, lines, every, 10, columns)
        rng = np.random.default_rng(percent)
        updated = np.sort(rng.choice(every, len(lines) * percent // 100, replace=False))
        if percent == 0:
            engine.compact(TABLE, columns, everything=True)
            _compare(engine, path, columns, "0% updated")
            return
        engine.compact(TABLE, columns, everything=True)
        _publish(engine, lines, updated, 1 << 30, columns)
        _compare(engine, path, columns, f"{percent}% updated, recent")
        engine.compact(TABLE, columns, everything=True)
        _compare(engine, path, columns, f"{percent}% updated, compacted")


def _compare(engine: Engine, path: Path, columns: list[ScanColumn], what: str) -> None:
    some = [column for column in columns if column.id in SOME]
    plain = path / "plain.parquet"
    table = pa.Table.from_batches(_scan(engine, columns))
    pq.write_table(table, plain)
    for which, chosen in (("all columns", columns), ("two columns", some)):
        names = [column_name(c.id) for c in chosen]
        ours = _cpu_seconds(lambda chosen=chosen: _scan(engine, chosen))
        theirs = _cpu_seconds(lambda names=names: pq.read_table(plain, columns=names))
        rate = f"{len(table) / ours / 1e6:.1f} M rows/s of CPU"
        Line(f"{what}, {which}", f"{ours / theirs:.2f}", rate).show()


def _scan(engine: Engine, columns: list[ScanColumn]) -> list[pa.RecordBatch]:
    regions = engine.plan(engine.read([]), TABLE)
    return [batch for region in regions for batch in engine.scan(region, ScanSpec(columns, NEWEST))]


def _publish(
    engine: Engine, lines: pa.Table, rows: np.ndarray, ts: int, columns: list[ScanColumn]
) -> None:
    """Versions of these rows, a transaction each, in batches as the writer's."""
    for start in range(0, len(rows), BATCH_ROWS):
        part = rows[start : start + BATCH_ROWS]
        stamps = np.arange(ts + start, ts + start + len(part), dtype=np.uint64)
        ops = np.full(len(part), Op.PUT, np.uint8)
        values = lines.take(pa.array(part)).combine_chunks().columns
        schema = version_schema(pa.int64(), [(c.id, c.type) for c in columns])
        arrays = [pa.array(part), pa.array(stamps), pa.array(stamps), pa.array(ops)]
        chunks = [*arrays, *(column.chunk(0) for column in values)]
        batch = pa.RecordBatch.from_arrays(chunks, schema=schema)
        engine.publish(Publication([VersionBatch(TABLE, batch)], ManifestChange()))
        engine.compact(TABLE, columns)


def _lineitem(folder: Path) -> pa.Table:
    store = make_store(workload("tpch"), folder / "tpch")
    with open_snapshot(store) as snapshot:
        once = pa.Table.from_batches(snapshot.scan("tpch.lineitem"))
    return pa.concat_tables([once] * COPIES).combine_chunks()


def _fields(lines: pa.Table) -> list[tuple[int, pa.Field]]:
    return list(enumerate(lines.schema, 1))


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
