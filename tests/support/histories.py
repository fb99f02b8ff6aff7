"""Random histories of row versions, for tests that compare engines."""

import random
from collections.abc import Iterator

import pyarrow as pa

from pyspark_theflash.engine.api import Publication, VersionBatch
from pyspark_theflash.mvcc.project import ScanColumn
from pyspark_theflash.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS, Op, column_name, version_schema
from pyspark_theflash.store.manifest import Change, Record
from pyspark_theflash.types import ColumnID, PhysicalTableID

COLUMNS = ((ColumnID(1), pa.int64()), (ColumnID(2), pa.string()))


def scan_columns() -> list[ScanColumn]:
    """Both columns of `publications`, and one that no row has."""
    known = [ScanColumn(i, tp, pa.scalar(None, tp)) for i, tp in COLUMNS]
    return [*known, ScanColumn(ColumnID(9), pa.int32(), pa.scalar(7, pa.int32()))]


def publications(
    rng: random.Random, *, rounds: int, keys: int, tables: int = 2, binary: bool = False
) -> Iterator[Publication]:
    """A history: `rounds` publications over `tables` tables, timestamps growing by ten with each version."""
    ts = 100
    for number in range(rounds):
        versions = []
        for table in range(1, tables + 1):
            rows = []
            for _ in range(rng.randint(0, 2 * keys)):
                ts += 10
                op = Op.DELETE if rng.random() < 0.3 else Op.PUT
                key = rng.randrange(keys)
                handle = b"\x03%08d" % key if binary else key - keys // 2
                value = (rng.randrange(1000), rng.choice(["", "é", None])) if op else (None, None)
                rows.append((handle, ts, ts - 1, int(op), *value))
            if rows:
                versions.append(VersionBatch(PhysicalTableID(table), _batch(rows, binary=binary)))
        records = [Record("note", "round", str(number).encode()), Record("round", f"{number:03d}", b"")]
        yield Publication(versions, Change(records))


def _batch(rows: list[tuple[object, ...]], *, binary: bool) -> pa.RecordBatch:
    rows.sort(key=lambda r: (r[0], r[1]))  # type: ignore[arg-type, return-value]
    schema = version_schema(pa.binary() if binary else pa.int64(), COLUMNS)
    names = [HANDLE, COMMIT_TS, START_TS, OP, *(column_name(i) for i, _ in COLUMNS)]
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return pa.RecordBatch.from_pydict({k: list(v) for k, v in columns.items()}, schema=schema)
