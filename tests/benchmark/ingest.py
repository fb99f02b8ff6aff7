"""The speed of ingest: a long stream of tpch's orders and lines, on one core.

The stream (`restamp.py`) is made in files first. A process of its own, held to one core, then
applies it as the writer's job does; another one writes the rows that it ends with, already decoded,
with pyarrow as Parquet and syncs them: the floor.

Stages: `read` takes frames apart, checks them and pairs prewrites with commits; `parse` opens
prewrite values; `decode` turns rows into versions; `publish` finds what they supersede, writes and
syncs files and manifest; `compact` rewrites small files.

`--full` makes 2 GB of binlog instead of 300 MB; `--spread` puts new keys between the old ones.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.memory import use_system_memory
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.benchmark.process import peak_rss_bytes, run_apart
from tests.benchmark.report import Line
from tests.benchmark.restamp import Stream, write_stream
from tests.support.workloads import workload

SIZE_BYTES = 300_000_000
FULL_BYTES = 2_000_000_000


def main(arguments: tuple[str, ...] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.ingest")
    parser.add_argument("--full", action="store_true", help="2 GB instead of 300 MB")
    parser.add_argument("--spread", action="store_true", help="new keys between old ones")
    parser.add_argument("--rounds", type=int, default=1, help="show the best of so many")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        size_bytes = FULL_BYTES if chosen.full else SIZE_BYTES
        stream = write_stream(
            workload("tpch"), Path(folder) / "binlog", size_bytes, spread=chosen.spread
        )
        runs = [
            run_apart(apply_stream, stream, Path(folder) / f"store{n}")
            for n in range(chosen.rounds)
        ]
        floor = run_apart(write_parquet, Path(folder) / "store0", Path(folder))
        show(stream, min(runs, key=lambda run: run["cpu_s"]), floor)


def show(stream: Stream, run: dict[str, Any], floor: dict[str, Any]) -> None:
    """Print one run and its floor."""
    rows, wall_s, cpu_s = stream.row_changes, run["wall_s"], run["cpu_s"]
    print(f"ingest of tpch: {rows:,} row changes, {stream.size_bytes / 1e6:,.0f} MB, one core")
    Line("rows/s", f"{rows / wall_s:,.0f}", f"{rows / cpu_s:,.0f} a second of CPU").show()
    Line("binlog", f"{stream.size_bytes / wall_s / 1e6:.1f} MB/s", f"{wall_s:.1f} s").show()
    for stage, spent_s in run["stages"].items():
        Line(f"  {stage}", f"{spent_s / cpu_s:.0%}", f"{spent_s:.1f} s of CPU").show()
    begin = run["begin_rss"] / 2**20
    Line("peak RSS", f"{run['peak_rss'] / 2**20:.0f} MiB", f"{begin:.0f} before").show()
    written = f"{floor['rows']:,} rows, ratio {cpu_s / floor['cpu_s']:.1f}"
    Line("pyarrow writes the final rows", f"{floor['cpu_s']:.1f} s of CPU", written).show()


def apply_stream(stream: Stream, path: Path) -> dict[str, Any]:
    """In a separate process: replicate the stream into a new store."""
    use_system_memory()
    fs = LocalFileSystem()
    identity = registry.create(path, registry.MAGIC, fs)
    engine = registry.open_engine(path, identity, fs, SystemClock())
    try:
        writer = Writer(engine, FileSchema(workload("tpch").schema))
        writer.report.timer = time.process_time
        begin_rss = peak_rss_bytes()
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        report = writer.run_once(FileSource(stream.folder), until_ts=stream.until_ts)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    finally:
        engine.close()
    if report.rows != stream.row_changes:
        raise ValueError(f"{report.rows} row changes of {stream.row_changes}")
    stages = {"read": cpu_s - sum(report.seconds.values()), **report.seconds}
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "stages": stages,
        "begin_rss": begin_rss,
        "peak_rss": peak_rss_bytes(),
    }


def write_parquet(store: Path, folder: Path) -> dict[str, Any]:
    """In a separate process: write the store's rows as plain Parquet; reading is not counted."""
    cpu_s, rows = 0.0, 0
    with open_snapshot(store) as snapshot:
        for number, table in enumerate(snapshot.tables()):
            path = folder / f"plain{number}.parquet"
            schema = next(iter(snapshot.scan(table.full_name))).schema
            with pq.ParquetWriter(path, schema, compression="lz4") as file:
                for batch in snapshot.scan(table.full_name):
                    started = time.process_time()
                    file.write_batch(batch)
                    cpu_s += time.process_time() - started
                    rows += batch.num_rows
            started = time.process_time()
            with path.open("rb") as file:
                os.fsync(file.fileno())
            cpu_s += time.process_time() - started
    return {"cpu_s": cpu_s, "rows": rows}


if __name__ == "__main__":
    import sys

    main(tuple(sys.argv[1:]))
