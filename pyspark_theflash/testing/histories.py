"""Random histories of row versions, for tests that compare engines."""

import random
from collections.abc import Iterator, Sequence

import pyarrow as pa

from pyspark_theflash.base.types import ColumnID, PhysicalTableID
from pyspark_theflash.storage.engine.api import Publication, VersionBatch
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.storage.store.manifest import ManifestChange, Record

COLUMNS = ((ColumnID(1), pa.int64()), (ColumnID(2), pa.string()))


def scan_columns() -> list[ScanColumn]:
    """Both columns of `publications`, and one that no row has."""
    stored = [ScanColumn(i, tp, Default(pa.scalar(None, tp))) for i, tp in COLUMNS]
    return [*stored, ScanColumn(ColumnID(9), pa.int32(), Default(pa.scalar(7, pa.int32())))]


def publications(
    rng: random.Random, *, rounds: int, keys: int, tables: int = 2, binary: bool = False
) -> Iterator[Publication]:
    """A history of `rounds` publications; timestamps grow by ten with each version.

    A publication has up to two batches of a table, or none. The record `note round` is the
    publication's number; every other of the records `round <number>` is deleted again.
    """
    ts = 100
    for number in range(rounds):
        versions = []
        for table in sorted([*range(1, tables + 1)] * 2):
            rows = []
            for _ in range(rng.randint(0, keys)):
                ts += 10
                op = Op.DELETE if rng.random() < 0.3 else Op.PUT
                key = rng.randrange(keys)
                handle = b"\x03%08d" % key if binary else key - keys // 2
                value = (rng.randrange(1000), rng.choice(["", "é", None])) if op else (None, None)
                rows.append((handle, ts, ts - 1, int(op), *value))
            if rows:
                batch = version_batch(rows, COLUMNS, pa.binary() if binary else pa.int64())
                versions.append(VersionBatch(PhysicalTableID(table), batch))
        puts = [Record("note", "round", str(number).encode()), Record("round", f"{number}", b"")]
        deletes = [("round", f"{number - 1}")] if number % 2 else []
        yield Publication(versions, ManifestChange(puts, deletes))


def version_batch(
    rows: Sequence[tuple[object, ...]],
    columns: Sequence[tuple[ColumnID, pa.DataType]],
    handle: pa.DataType | None = None,
) -> pa.RecordBatch:
    """Rows of (handle, commit_ts, start_ts, op, values...) in any order as a batch of versions."""
    schema = version_schema(handle or pa.int64(), columns)
    ordered = sorted(rows, key=lambda row: row[:2])
    cells = zip(*ordered, strict=True) if ordered else [()] * len(schema)
    arrays = [pa.array(list(c), f.type) for c, f in zip(cells, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
