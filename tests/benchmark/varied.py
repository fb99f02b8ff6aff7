"""Varied queries of Spark over a store that changes, against Spark on clean Parquet.

A table of twelve columns, of which a share of the rows was updated after it was written, and no
benchmark's queries: expressions as groups, DISTINCT, long strings, joins, NULLs, windows. A figure
is the median over all rounds of Parquet's time / ours, with its 95% interval (higher is better);
both must give the same answer. Averages and sums of doubles are rounded, for they depend on the
order of the rows.

`--full` has 8 M rows and 7 rounds, not 1 M and 5. `--queries` takes parts of names.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.benchmark.process import run_apart
from tests.benchmark.spark import Data, compare, money, updated_ids, write
from tests.benchmark.system import System

SHORT = {"flen": 20, "collate": "utf8mb4_bin"}
LONG = {"flen": 200, "collate": "utf8mb4_bin"}
TABLE = table_info(
    1,
    "bench.orders",
    [
        id_column(),
        column("customer", MySQLType.LONG),
        column("amount", MySQLType.NEWDECIMAL, flen=15, decimal=2),
        column("price", MySQLType.DOUBLE),
        column("quantity", MySQLType.LONG),
        column("big", MySQLType.LONGLONG),
        column("day", MySQLType.DATE),
        column("ts", MySQLType.TIMESTAMP, decimal=6),
        column("status", MySQLType.VARCHAR, **SHORT),
        column("city", MySQLType.VARCHAR, **SHORT),
        column("note", MySQLType.VARCHAR, **LONG),
        column("token", MySQLType.VARCHAR, **LONG),
    ],
)
QUERIES = {
    "group by a month": "SELECT date_trunc('MONTH', ts) m, count(*), sum(amount) FROM {t} "
    "GROUP BY 1 ORDER BY 1",
    "group by year and month": "SELECT year(day), month(day), count(*), max(quantity) FROM {t} "
    "GROUP BY 1, 2 ORDER BY 1, 2",
    "group by an hour": "SELECT hour(ts), count(*), sum(amount) FROM {t} GROUP BY 1 ORDER BY 1",
    "group by the date of a time": "SELECT to_date(ts), sum(quantity) FROM {t} "
    "WHERE status = 'paid' GROUP BY 1 ORDER BY 2, 1 LIMIT 20",
    "group by a CASE": "SELECT CASE WHEN amount < 1000 THEN 'small' WHEN amount < 50000 THEN "
    "'medium' ELSE 'large' END c, count(*), avg(quantity) FROM {t} GROUP BY 1 ORDER BY 1",
    "group by an IF": "SELECT if(city IS NULL, 'nowhere', status) w, sum(amount) FROM {t} "
    "GROUP BY 1 ORDER BY 1",
    "group by a remainder": "SELECT customer % 16, count(*), sum(quantity) FROM {t} "
    "GROUP BY 1 ORDER BY 1",
    "group by a substring": "SELECT substring(token, 1, 1) s, count(*) FROM {t} "
    "GROUP BY 1 ORDER BY 1",
    "group by a coalesce": "SELECT coalesce(city, status) c, count(*), min(day) FROM {t} "
    "GROUP BY 1 ORDER BY 1",
    "group by upper": "SELECT upper(city) c, max(amount) FROM {t} GROUP BY 1 ORDER BY 1",
    "group by a cast": "SELECT cast(price / 100 AS int) p, count(*) FROM {t} GROUP BY 1 ORDER BY 1",
    "group by a condition": "SELECT quantity > 50 AND status <> 'new' c, count(*), sum(amount) "
    "FROM {t} GROUP BY 1 ORDER BY 1",
    "group by two strings": "SELECT city, status, count(*), sum(amount), avg(price) > 0 FROM {t} "
    "GROUP BY city, status ORDER BY city, status",
    "many groups, first 10": "SELECT customer, sum(amount) s FROM {t} GROUP BY customer "
    "ORDER BY s DESC, customer LIMIT 10",
    "many groups, HAVING": "SELECT count(*) FROM (SELECT customer FROM {t} WHERE quantity < 20 "
    "GROUP BY customer HAVING count(*) > 12)",
    "count(DISTINCT)": "SELECT count(DISTINCT customer) FROM {t}",
    "count(DISTINCT) by group": "SELECT status, count(DISTINCT city), count(*) FROM {t} "
    "GROUP BY status ORDER BY status",
    "count(DISTINCT) of a date": "SELECT count(DISTINCT day), count(*) FROM {t} WHERE price > 100",
    "two DISTINCTs": "SELECT count(DISTINCT city), count(DISTINCT quantity) FROM {t}",
    "DISTINCT": "SELECT DISTINCT status, quantity FROM {t} ORDER BY 1, 2",
    "sum(CASE)": "SELECT sum(CASE WHEN status = 'paid' THEN amount ELSE 0 END), "
    "count(CASE WHEN quantity > 90 THEN 1 END) FROM {t}",
    "two long strings out": "SELECT bit_xor(xxhash64(note)), bit_xor(xxhash64(token)) FROM {t}",
    "lengths of strings": "SELECT avg(length(note)), max(length(token)) FROM {t}",
    "LIKE in a long string": "SELECT count(*), min(note) FROM {t} WHERE note LIKE '%quick%lazy%'",
    "contains in a long string": "SELECT count(*) FROM {t} WHERE note LIKE '%zebra%'",
    "selective join": "SELECT count(*), sum(o.amount) FROM {t} o JOIN (SELECT id FROM {t} "
    "WHERE city = 'city 7' AND quantity = 7 AND id < 200000) c ON o.customer = c.id",
    "semi join": "SELECT count(*), sum(quantity) FROM {t} WHERE customer IN "
    "(SELECT id FROM {t} WHERE id < 200000 AND status = 'lost')",
    "join of groups": "SELECT a.city, a.s, b.c FROM (SELECT city, sum(amount) s FROM {t} GROUP BY "
    "city) a JOIN (SELECT city, count(*) c FROM {t} WHERE quantity IS NULL GROUP BY city) b "
    "ON a.city = b.city ORDER BY 1",
    "IS NULL with avg": "SELECT avg(quantity), avg(amount), count(*) FROM {t} WHERE city IS NULL",
    "avg of a BIGINT": "SELECT round(avg(big), -6), count(*) FROM {t} WHERE quantity IS NOT NULL",
    "deviation": "SELECT status, round(stddev(price), 3) FROM {t} GROUP BY status ORDER BY status",
    "window": "SELECT count(*), max(r) FROM (SELECT row_number() OVER (PARTITION BY city ORDER BY "
    "ts, id) r FROM {t} WHERE quantity = 3) WHERE r <= 1000",
    "last 100": "SELECT id, ts, note FROM {t} ORDER BY ts DESC, id LIMIT 100",
    "range of keys": "SELECT count(*), sum(amount), max(note) FROM {t} "
    "WHERE id BETWEEN 300000 AND 340000",
    "above the average": "SELECT count(*) FROM {t} WHERE amount > (SELECT avg(amount) FROM {t})",
    "days of a quarter": "SELECT day, sum(amount), count(city) FROM {t} WHERE day >= DATE "
    "'2023-04-01' AND day < DATE '2023-07-01' GROUP BY day ORDER BY day",
    "IN and OR": "SELECT count(*), sum(amount) FROM {t} WHERE city IN ('city 1', 'city 9') "
    "OR (status = 'new' AND quantity BETWEEN 10 AND 12)",
    "row of sums": "SELECT sum(amount), sum(amount * 2), min(ts), max(ts), count(city) FROM {t}",
}
CITIES = np.array([f"city {n}" for n in range(60)])
STATUSES = np.array(["lost", "new", "open", "paid", "sent"])
WORDS = np.array(
    ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "zebra", "letter"]
)
PHRASES = 20_000
_2022_US = 1_640_995_200_000_000
_DAY_US = 86_400_000_000
_DAYS = 1000


def main(arguments: Sequence[str] = ()) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.varied")
    parser.add_argument("--full", action="store_true", help="8 M rows, 7 rounds")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--percent", type=int, default=5, help="of the rows that were updated")
    parser.add_argument("--queries", default="", help="parts of names, with commas")
    parser.add_argument("--data", type=Path, help="a folder to make the rows in, or to find them")
    chosen = parser.parse_args(arguments)
    rows = chosen.rows or (8_000_000 if chosen.full else 1_000_000)
    rounds = chosen.rounds or (7 if chosen.full else 5)
    parts = chosen.queries.split(",")
    queries = {name: text for name, text in QUERIES.items() if any(p in name for p in parts)}
    print(f"Varied queries, {rows:,} rows, {chosen.percent}% updated: Parquet's time / ours")
    with tempfile.TemporaryDirectory() as name, closing(System("ours", Path(name))) as system:
        data = chosen.data or Path(name) / "data"
        if not data.exists():
            run_apart(_write, data, rows, chosen.percent, pinned=False)
        system.load(data, TABLE.full_name)
        compare([system], queries, rounds, "")


def _write(folder: Path, count: int, percent: int) -> None:
    before = _rows(np.arange(count), count, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    updates = _rows(updated_ids(count, percent, rng), count, rng)
    write(folder, TABLE, Data(before, updates))


def _rows(ids: np.ndarray, keys: int, rng: np.random.Generator) -> pa.Table:
    """Rows of `TABLE`, of so many different keys."""
    count = len(ids)
    seconds = rng.integers(0, _DAYS * 86_400, count)
    columns = {
        "id": pa.array(ids),
        "customer": pa.array(rng.integers(0, min(keys, 200_000), count).astype(np.int32)),
        "amount": money((rng.exponential(20_000, count) * 100).astype(np.int64)),
        "price": pa.array(np.round(rng.uniform(0, 2_000, count), 2)),
        "quantity": _nullable(rng.integers(0, 100, count).astype(np.int32), 0.1, rng),
        "big": _nullable(rng.integers(0, 1 << 50, count), 0.02, rng),
        "day": pa.array((rng.integers(0, _DAYS, count) + 18_993).astype(np.int32)).cast(
            pa.date32()
        ),
        "ts": pa.array(_2022_US + seconds * 1_000_000, pa.timestamp("us", tz="UTC")),
        "status": pa.array(STATUSES[rng.integers(0, len(STATUSES), count)]),
        "city": _nullable(CITIES[rng.integers(0, len(CITIES), count)], 0.05, rng),
        "note": _notes(count, rng),
        "token": _tokens(count, rng),
    }
    return pa.table(columns)


def _nullable(values: np.ndarray, share: float, rng: np.random.Generator) -> pa.Array:
    return pa.array(values, mask=rng.random(len(values)) < share)


def _notes(count: int, rng: np.random.Generator) -> pa.Array:
    """Three phrases each, of about 90 characters together, 3% NULL."""
    phrases = pa.array([" ".join(rng.choice(WORDS, 6)) for _ in range(PHRASES)])
    picked = [phrases.take(pa.array(rng.integers(0, PHRASES, count))) for _ in range(3)]
    notes = pc.binary_join_element_wise(*picked, " ")
    return pc.if_else(pa.array(rng.random(count) < 0.03), None, notes)


def _tokens(count: int, rng: np.random.Generator) -> pa.Array:
    """64 hexadecimal digits each, no two alike."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[rng.integers(0, 16, 64 * count, np.uint8)]
    offsets = np.arange(0, 64 * count + 1, 64, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))


if __name__ == "__main__":
    main(sys.argv[1:])
