"""Spark's queries over a store that changes, against Spark on clean Parquet, and others beside it.

A table of eight columns, of which a share of the rows was updated after it was written. Every
system is measured against files that its own Spark wrote of just the visible rows: see `system`.
Each round runs a query once on each, Parquet and system one after the other. A figure is the median
over all rounds of Parquet's time / the system's, with its 95% interval (higher is better); "ours /
theirs" is of these figures, round by round. All must give the same answer.

`--full` has 10 M rows, ten times as many, and 9 rounds, not 5. `--beside delta,iceberg` needs Maven
Central the first time, and for Iceberg a Spark of its own: see `iceberg`.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.benchmark.bulk import make_store, publish
from tests.benchmark.iceberg import iceberg_python
from tests.benchmark.process import run_apart
from tests.benchmark.report import Line, interval
from tests.benchmark.system import PARQUET, SETTINGS, System

FILES = 12
MONEY = {"flen": 15, "decimal": 2}
UTF8 = {"flen": 10, "collate": "utf8mb4_bin"}
TABLE = table_info(
    1,
    "bench.lines",
    [
        id_column(),
        column("quantity", MySQLType.NEWDECIMAL, **MONEY),
        column("price", MySQLType.NEWDECIMAL, **MONEY),
        column("discount", MySQLType.NEWDECIMAL, **MONEY),
        column("tax", MySQLType.NEWDECIMAL, **MONEY),
        column("status", MySQLType.VARCHAR, **UTF8),
        column("shipped", MySQLType.DATE),
        column("mode", MySQLType.VARCHAR, **UTF8),
    ],
)
MODES = np.array(["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"])
QUERIES = {
    "count(*)": "SELECT count(*) FROM {t}",
    "count(col)": "SELECT count(tax) FROM {t}",
    "sum of 1 of 8": "SELECT sum(price) FROM {t}",
    "Q6": "SELECT sum(price * discount) FROM {t} WHERE shipped >= DATE '1994-01-01' "
    "AND shipped < DATE '1995-01-01' AND discount BETWEEN 0.05 AND 0.07 AND quantity < 24",
    "Q1": "SELECT status, mode, sum(quantity), sum(price), sum(price * (1 - discount)), "
    "sum(price * (1 - discount) * (1 + tax)), avg(quantity), avg(price), avg(discount), count(*) "
    "FROM {t} WHERE shipped <= DATE '1998-09-02' GROUP BY status, mode ORDER BY status, mode",
    "group by string": "SELECT mode, sum(quantity), count(*) FROM {t} GROUP BY mode ORDER BY mode",
    "top 10": "SELECT * FROM {t} ORDER BY price DESC, id LIMIT 10",
    "limit 10": "SELECT * FROM {t} LIMIT 10",
    "point lookup": "SELECT * FROM {t} WHERE id = 654321",
}
ANY_ROWS = frozenset({"limit 10"})
"""Queries with more than one correct answer."""

Pair = tuple[float, float]
"""Seconds on Parquet, and on the system beside it."""


@dataclass(frozen=True)
class Data:
    """The rows as they were, and which of them are others now."""

    before: pa.Table
    updates: pa.Table

    @property
    def now(self) -> pa.Table:
        """Return the rows that a reader must see."""
        ids = self.updates["id"].to_numpy()
        places = np.arange(len(self.before))
        places[ids] = len(self.before) + np.arange(len(ids))
        return pa.concat_tables([self.before, self.updates]).take(pa.array(places))


def main(arguments: Sequence[str] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.spark")
    parser.add_argument("--full", action="store_true", help="10 M rows, 9 rounds")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--percent", default="0,1,10", help="of the rows that were updated")
    parser.add_argument("--beside", default="", help="ours: delta, iceberg")
    parser.add_argument("--queries", default=",".join(QUERIES), help="which ones")
    chosen = parser.parse_args(arguments)
    rows = chosen.rows or (10_000_000 if chosen.full else 1_000_000)
    rounds = chosen.rounds or (9 if chosen.full else 5)
    queries = {name: QUERIES[name] for name in chosen.queries.split(",")}
    beside = [kind for kind in chosen.beside.split(",") if kind]
    if unknown := set(beside) - set(SETTINGS):
        parser.error(f"--beside: there is no {', '.join(sorted(unknown))}")
    kinds = [kind for kind in SETTINGS if kind in {"ours", *beside}]
    print(f"Spark, {rows:,} rows: Parquet's time / ours (higher is better), {rounds} rounds")
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        systems = [running.enter_context(closing(_started(kind, folder))) for kind in kinds]
        for percent in map(int, chosen.percent.split(",")):
            run_apart(_write, folder / f"p{percent}", rows, percent, pinned=False)
            for system in systems:
                kept = system.load(folder / f"p{percent}", TABLE.full_name)
                Line(f"{percent}% updated, {system.kind}", kept).show()
            compare(systems, queries, rounds, f"{percent}% updated, ", ANY_ROWS)
            shutil.rmtree(folder / f"p{percent}")


def _started(kind: str, folder: Path) -> System:
    """The process of a system; only Iceberg's is of another Python."""
    python = iceberg_python() if kind == "iceberg" else sys.executable
    return System(kind, folder / kind, python)


def _write(folder: Path, count: int, percent: int) -> None:
    rows = _rows(count, np.random.default_rng(1))
    write(folder, TABLE, Data(rows, _updates(rows, percent)))


def write(folder: Path, table: TableInfo, data: Data) -> None:
    """Files of the rows before, of their updates and of the rows now, and the store."""
    for name, part in (("before", data.before), ("updates", data.updates), ("now", data.now)):
        (folder / name).mkdir(parents=True)
        step = -(-len(part) // FILES) or 1
        for start in range(0, max(len(part), 1), step):
            pq.write_table(part.slice(start, step), folder / name / f"{start:09}.parquet")
    make_store(folder / "store", [table])
    before, after = (part["id"].to_numpy() for part in (data.before, data.updates))
    publish(folder / "store", table, data.before, before, 10, everything=True)
    publish(folder / "store", table, data.updates, after, 1 << 30)


def _rows(count: int, rng: np.random.Generator) -> pa.Table:
    """Rows of `TABLE`, `id` counting up."""
    columns = {
        "id": pa.array(np.arange(count)),
        "quantity": money(rng.integers(1, 51, count) * 100),
        "price": money(rng.integers(90_000, 10_500_000, count)),
        "discount": money(rng.integers(0, 11, count)),
        "tax": money(rng.integers(0, 9, count)),
        "status": pa.array(np.array(["A", "N", "R"])[rng.integers(0, 3, count)]),
        "shipped": pa.array(rng.integers(8036, 10_562, count).astype(np.int32)).cast(pa.date32()),
        "mode": pa.array(MODES[rng.integers(0, len(MODES), count)]),
    }
    return pa.table(columns)


def _updates(rows: pa.Table, percent: int) -> pa.Table:
    """A share of the rows, spread over all of them, with other values."""
    rng = np.random.default_rng(percent + 2)
    ids = updated_ids(len(rows), percent, rng)
    changed = _rows(len(ids), rng)
    return changed.set_column(0, "id", pa.array(ids))


def updated_ids(count: int, percent: int, rng: np.random.Generator) -> np.ndarray:
    """Return the ids of the updated rows."""
    return np.sort(rng.choice(count, count * percent // 100, replace=False))


def money(cents: np.ndarray) -> pa.Array:
    """decimal(15, 2), of which Arrow has 128 bits."""
    words = np.zeros((len(cents), 2), np.int64)
    words[:, 0], words[:, 1] = cents, cents >> 63
    return pa.Array.from_buffers(pa.decimal128(15, 2), len(cents), [None, pa.py_buffer(words)])


def compare(
    systems: Sequence[System],
    queries: Mapping[str, str],
    rounds: int,
    what: str,
    any_rows: Container[str] = (),
) -> None:
    """Check that all answer alike, but for `any_rows`, and print how long they take."""
    for query, text in queries.items():
        answers = [s.answer(view, text) for s in systems for view in (PARQUET, s.kind)]
        wrong = [a for a in answers if a != answers[0] and query not in any_rows]
        if wrong or {len(answer) for answer in answers} != {len(answers[0])}:
            raise AssertionError(f"{query}: not all have the same answer")
        _show(f"{what}{query}", _together(systems, text, rounds))


def _show(what: str, taken: Mapping[str, Sequence[Pair]]) -> None:
    ours = taken["ours"]
    for kind, pairs in taken.items():
        ratio = interval([parquet / theirs for parquet, theirs in pairs])
        if kind == "ours":
            seconds = statistics.median(parquet for parquet, _ in ours)
            Line(what, ratio, f"Parquet {seconds:.2f} s").show()
        else:
            both = zip(ours, pairs, strict=True)
            against = interval([(p / o) / (q / t) for (p, o), (q, t) in both])
            Line(f"  {kind}", ratio, f"ours / {kind} {against}").show()


def _together(systems: Sequence[System], text: str, rounds: int) -> dict[str, list[Pair]]:
    """The times of each, taken in turns."""
    taken: dict[str, list[Pair]] = {system.kind: [] for system in systems}
    for number in range(rounds):
        # Vary the order, so that no system always follows the same one.
        first = number % len(systems)
        for system in (*systems[first:], *systems[:first]):
            views = (PARQUET, system.kind)[:: 1 if number % 2 else -1]
            seconds = {view: system.seconds(view, text) for view in views}
            taken[system.kind].append((seconds[PARQUET], seconds[system.kind]))
    return taken


if __name__ == "__main__":
    main(sys.argv[1:])
