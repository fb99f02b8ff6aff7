"""How fast a snapshot of tpch's lineitem is read, against pyarrow on clean Parquet.

Both decode every value into Arrow batches on the same threads. The store holds every version of
every row (180,287 lines loaded, 5% updated, 2% deleted) and answers at three timestamps; the peer
holds just the rows of one of them.
"""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.planner.snapshot import open_snapshot
from pyspark_theflash.types import TimeStamp
from tests.benchmark.report import Line, best_of
from tests.support.workloads import make_store, workload

ROUNDS = 7
TABLE = "tpch.lineitem"
SOME = ["L_EXTENDEDPRICE", "L_DISCOUNT"]


def main() -> None:
    """Print the figures."""
    chosen = workload("tpch")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(chosen, Path(folder) / "store")
        print("scan of tpch.lineitem: our time / pyarrow's on clean Parquet (lower is better)")
        for ts in sorted({a.snapshot_ts for a in chosen.answers()}):
            _compare(store, ts, Path(folder))


def _compare(store: Path, ts: TimeStamp, folder: Path) -> None:
    with open_snapshot(store, ts) as snapshot:
        table = pa.Table.from_batches(snapshot.scan(TABLE))
    for compression in ("lz4", "zstd"):
        plain = folder / f"plain-{ts}-{compression}.parquet"
        pq.write_table(table, plain, compression=compression, store_decimal_as_integer=True)
        for what, columns in (("all columns", None), ("two columns", SOME)):
            ours = best_of(ROUNDS, lambda columns=columns: _ours(store, ts, columns))
            theirs = best_of(
                ROUNDS, lambda columns=columns, plain=plain: pq.read_table(plain, columns=columns)
            )
            rate = f"{table.num_rows / ours / 1e6:.1f} M rows/s"
            Line(f"at {ts}, {what}, {compression}", f"{ours / theirs:.2f}", rate).show()


def _ours(store: Path, ts: TimeStamp, columns: list[str] | None) -> int:
    with open_snapshot(store, ts) as snapshot:
        return sum(batch.num_rows for batch in snapshot.scan(TABLE, columns))


if __name__ == "__main__":
    main()
