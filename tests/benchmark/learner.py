"""The slowdown of a read by rows in the cache, against the same rows in the engine.

    python -m tests.benchmark.learner [--rows N] [--percent P]

tpch's lineitem (two columns are its key) and orders (one integer is), as TiKV has them, are
committed, published and compacted; then a share of the rows is committed again. What is read is the
same four times: `cache`, the share is where commands have brought it; `moving`, and some more rows
have come since the read before; `flushed`, it is published; `compacted`, that too. What is compared
is CPU time, over all threads, the least of some reads; the first one, which decodes all, is not.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.storage.mvcc.project import ScanColumn, scan_column
from pyspark_theflash.tidb.protocol._generated.kvproto import enginepb_pb2, raft_cmdpb_pb2
from pyspark_theflash.tidb.schema.file import read_schema_file
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.learner import Learner
from pyspark_theflash.tikv.read import open_tables
from pyspark_theflash.tikv.wire import decode_commands
from tests.benchmark.raft import learning
from tests.benchmark.report import Line
from tests.support.captured_rows import captured_rows
from tests.support.percolator_records import write_record
from tests.support.raft_tikv import at_ts, batch, encoded
from tests.support.row_oracle import decode_insert_v1, encode_row_v2
from tests.support.table_rows import read_rows
from tests.support.workloads import workload

TARGET = 1.5
ROUNDS = 15
_COMMAND_ROWS = 500
_FEW = 3
_MOVING = 20
"""One in this many of the updated rows is updated again before each read."""


def main(arguments: tuple[str, ...] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.learner")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--percent", type=int, default=10)
    chosen = parser.parse_args(arguments)
    print(f"learner: {chosen.percent}% of {chosen.rows:,} rows not in the engine, CPU time")
    for name in ("lineitem", "orders"):
        measure(name, chosen.rows, chosen.percent)


def measure(name: str, rows: int, percent: int) -> None:
    """Read a table of so many rows, a share of which is in the cache."""
    history = read_schema_file(workload("tpch").schema)
    tables, source = PhysicalTables(history), Source(name)
    ts = TimeStamp(history.end_ts - (1 << 30))
    columns = [scan_column(source.table, c) for c in source.table.public_columns]
    with learning(history, 1) as (learner, engine):

        def read(before: Callable[[], object] = lambda: None) -> list[float]:
            return _read(learner, engine, tables, source.table, columns, before)

        def more() -> None:
            nonlocal ts
            ts = TimeStamp(ts + 20)
            places = range(0, rows, 100 // percent * _MOVING)
            learner.apply(decode_commands(source.commits(places, ts)))

        learner.apply(decode_commands(source.commits(range(rows), ts)))
        learner.flush()
        learner.compact(lambda _: columns)
        again = range(0, rows, 100 // percent)
        learner.apply(decode_commands(source.commits(again, TimeStamp(ts + 9))))
        spent = [read(), read(more)]
        learner.flush()
        spent.append(read())
        learner.compact(lambda _: columns)
        spent.append(read())
    for label, (cache, moving, flushed, compacted) in zip(
        ("all columns", f"{_FEW} columns"), zip(*spent, strict=True), strict=True
    ):
        Line(
            f"{name}, {label}: cache {cache * 1e3:.0f} ms",
            f"{cache / flushed:.2f} of flushed, moving {moving / flushed:.2f}",
            f"{cache / compacted:.2f}, {moving / compacted:.2f} of compacted; at most {TARGET}",
        ).show()


def _read(
    learner: Learner,
    engine: Engine,
    tables: PhysicalTables,
    table: TableInfo,
    columns: Sequence[ScanColumn],
    before: Callable[[], object],
) -> list[float]:
    """CPU seconds of reading all columns, and a few."""

    def read(chosen: Sequence[ScanColumn]) -> None:
        (view,) = open_tables(learner.store, table.physical_ids, TimeStamp(tables.history.end_ts))
        for _ in read_rows(view, engine, engine.read([]), tables, chosen):
            pass

    return [_cpu(partial(read, each), before) for each in (columns, columns[-_FEW:])]


def _cpu(action: Callable[[], object], before: Callable[[], object]) -> float:
    """The least of several runs, each after something that does not count."""
    best = float("inf")
    for _ in range(ROUNDS):
        before()
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best


class Source:
    """A captured table, whose rows are repeated under other keys."""

    def __init__(self, name: str) -> None:
        captured = next(c for c in captured_rows("tpch") if c.table.name == name)
        types = {int(c.id): c.type for c in captured.columns}
        handle = [column.type for column in captured.table.handle_columns]
        inserted = [decode_insert_v1(row, types, handle)[1] for row in captured.inserted[:500]]
        self.table, self._index = captured.table, itertools.count(6)
        self._rows = [encode_row_v2(row, types) for row in inserted]

    def commits(self, places: range, start_ts: TimeStamp) -> bytes:
        """A batch of commands that commit rows, in one phase."""
        return batch(self._commands(places, start_ts))

    def _commands(self, places: range, start_ts: TimeStamp) -> Iterator[bytes]:
        for at in range(0, len(places), _COMMAND_ROWS):
            command = enginepb_pb2.CommandRequest()
            command.header.region_id = 1
            command.header.index = next(self._index)
            for n in places[at : at + _COMMAND_ROWS]:
                put = command.requests.add(cmd_type=raft_cmdpb_pb2.Put).put
                put.cf, put.key = "write", at_ts(self._key(n + 1), start_ts + 5)
                row = self._rows[n % len(self._rows)]
                put.value = write_record("P", start_ts, short_value=row)
            yield command.SerializeToString()

    def _key(self, order: int) -> bytes:
        prefix = b"t" + (self.table.id + 2**63).to_bytes(8, "big") + b"_r"
        if self.table.pk_is_handle:
            return encoded(prefix + (order + 2**63).to_bytes(8, "big"))
        numbers = (b"\x03" + (n + 2**63).to_bytes(8, "big") for n in (order, 1))
        return encoded(prefix + b"".join(numbers))


if __name__ == "__main__":
    import sys

    main(tuple(sys.argv[1:]))
