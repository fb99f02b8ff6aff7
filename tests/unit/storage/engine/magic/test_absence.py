"""Rows without a column: copied unchanged, even if the column's value is unknown.

Files are read, merged and split; only a scan that reads an unknown value fails.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CorruptionError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine, Publication, ScanSpec, VersionBatch
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import Converted, Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.histories import version_batch
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType

TABLE = PhysicalTableID(7)
BIT = FieldType(MySQLType.BIT, 0, 8)
ENUM = FieldType(MySQLType.ENUM, 0, 1, -1, "utf8mb4", "utf8mb4_bin", ("a",))
TEXT = FieldType(MySQLType.VARCHAR, 0, 20, -1, "utf8mb4", "utf8mb4_bin")
KEY = ScanColumn(ColumnID(1), pa.int64(), Default(pa.scalar(None, pa.int64())))
OLD = ScanColumn(ColumnID(2), pa.uint64(), Default(pa.scalar(None, pa.uint64())))
UNCONVERTIBLE = ScanColumn(ColumnID(3), pa.string(), Converted(OLD, BIT, ENUM, "shop.t.a"))
CONVERTIBLE = ScanColumn(ColumnID(4), pa.string(), Converted(OLD, BIT, TEXT, "shop.t.b"))
ADDED = ScanColumn(ColumnID(5), pa.int32(), Default(pa.scalar(7, pa.int32())))
COLUMNS = [KEY, OLD, UNCONVERTIBLE, CONVERTIBLE, ADDED]
BEFORE = [(KEY.id, KEY.type), (OLD.id, OLD.type)]
AFTER = [
    *BEFORE,
    (UNCONVERTIBLE.id, UNCONVERTIBLE.type),
    (CONVERTIBLE.id, CONVERTIBLE.type),
    (ADDED.id, ADDED.type),
]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[MagicEngine]:
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    opened = MagicEngine(tmp_path / "store", LocalFileSystem(), SystemClock())
    with closing(opened) as one:
        put(one, [(1, 10, 9, Op.PUT, 1, 65), (2, 10, 9, Op.PUT, 2, 66)], BEFORE)
        put(one, [(2, 20, 19, Op.PUT, 2, 66, "{}", "66", 8)], AFTER)
        put(one, [(3, 30, 29, Op.PUT, 3, 67, "[]", "67", None), (4, 30, 29, Op.DELETE)], AFTER)
        yield one


def put(engine: Engine, rows: list[tuple[object, ...]], columns: list[object]) -> None:
    whole = [(*row, *[None] * (4 + len(columns) - len(row))) for row in rows]
    batch = version_batch([(*r[:3], int(r[3]), *r[4:]) for r in whole], columns)  # type: ignore[call-overload, arg-type]
    engine.publish(Publication([VersionBatch(TABLE, batch)], ManifestChange()))


def read(engine: Engine, ts: int, *columns: ScanColumn) -> list[tuple[object, ...]]:
    view = engine.read([])
    return sorted(
        row
        for region in engine.plan(view, TABLE)
        for batch in engine.scan(region, ScanSpec(columns, TimeStamp(ts)))
        for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)
    )


@pytest.mark.parametrize("safe_point", [None, TimeStamp(10), TimeStamp(30)])
def test_a_value_that_nobody_knows_fails_the_reads_of_it_alone(
    engine: MagicEngine, safe_point: TimeStamp | None
) -> None:
    for ts in (40, 41):
        report = engine.compact(TABLE, COLUMNS, safe_point=safe_point, everything=True)
        assert report.files_written == (ts == 40)
        assert read(engine, 30, KEY, CONVERTIBLE) == [(1, "65"), (2, "66"), (3, "67")]
        with pytest.raises(UnsupportedError, match=r"shop\.t\.a: .*BIT to ENUM"):
            read(engine, 30, KEY, UNCONVERTIBLE)
        put(engine, [(5, ts, ts - 1, Op.PUT, 5, 69, "1", "69", 5)], AFTER)
        assert len(read(engine, 41, KEY)) == 4
        engine.compact(TABLE, COLUMNS, everything=True)
    put(engine, [(1, 50, 49, Op.PUT, 1, 65, "null", "65", 1)], AFTER)
    # All rows that are visible now have the column.
    assert (1, "null") in read(engine, 50, KEY, UNCONVERTIBLE)
    engine.compact(TABLE, COLUMNS, everything=True)
    assert (1, "null") in read(engine, 50, KEY, UNCONVERTIBLE)


def test_a_region_is_divided_and_united_with_what_nobody_knows(engine: MagicEngine) -> None:
    engine.flush(TABLE, COLUMNS)
    (region,) = engine.regions(engine.read([]), TABLE)
    engine.split(TABLE, region.region_id, 2, COLUMNS)
    low, high = engine.regions(engine.read([]), TABLE)
    assert read(engine, 30, KEY, CONVERTIBLE) == [(1, "65"), (2, "66"), (3, "67")]
    engine.merge(TABLE, low.region_id, high.region_id, COLUMNS)
    assert read(engine, 30, KEY, CONVERTIBLE) == [(1, "65"), (2, "66"), (3, "67")]
    with pytest.raises(UnsupportedError):
        read(engine, 30, UNCONVERTIBLE)


def test_a_default_is_what_the_table_that_is_read_says(engine: MagicEngine) -> None:
    """After EXCHANGE PARTITION another table's definition applies to the same rows."""
    none = ScanColumn(ADDED.id, ADDED.type, Default(pa.scalar(None, pa.int32())))
    for _ in range(2):
        assert read(engine, 20, KEY, ADDED) == [(1, 7), (2, 8)]
        assert read(engine, 20, KEY, none) == [(1, None), (2, 8)]
        engine.compact(TABLE, COLUMNS, everything=True)


def test_files_say_nothing_of_columns_that_all_rows_hold_or_lack(
    engine: MagicEngine, tmp_path: Path
) -> None:
    engine.compact(TABLE, COLUMNS, everything=True)
    # The older version of the new row is dropped: all rows have all columns.
    put(engine, [(1, 40, 39, Op.PUT, 1, 65, "1", "65", 1)], AFTER)
    engine.compact(TABLE, COLUMNS, safe_point=TimeStamp(40), everything=True)
    (info,) = engine.files(engine.read([]), TABLE)
    names = pq.read_schema(tmp_path / "store" / "data" / info.path).names
    assert not [name for name in names if name.startswith("a")]
    engine.purge([TABLE])
    put(engine, [(1, 50, 49, Op.PUT, 1, 65)], BEFORE)
    put(engine, [(2, 51, 49, Op.PUT, 2, 66)], BEFORE)
    engine.compact(TABLE, COLUMNS, everything=True)
    (info,) = engine.files(engine.read([]), TABLE)
    names = pq.read_schema(tmp_path / "store" / "data" / info.path).names
    assert [name for name in names if name[0] in "ac"] == ["c1", "c2", "c4"]


def test_a_file_that_cannot_be_read_does_not_stop_the_engine(
    engine: MagicEngine, tmp_path: Path
) -> None:
    files = engine.files(engine.read([]), TABLE)
    damaged = tmp_path / "store" / "data" / files[0].path
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + b"X")
    with pytest.raises(CorruptionError):
        engine.compact(TABLE, COLUMNS, everything=True)
    other = PhysicalTableID(8)
    batch = version_batch([(1, 40, 39, 1, 1, 65)], BEFORE)
    engine.publish(Publication([VersionBatch(other, batch)], ManifestChange()))
    damaged.write_bytes(content)
    engine.compact(TABLE, COLUMNS, everything=True)
    assert read(engine, 30, KEY, CONVERTIBLE) == [(1, "65"), (2, "66"), (3, "67")]


def test_integers_beyond_their_type_are_carried(engine: MagicEngine) -> None:
    wide = [(KEY.id, KEY.type), (ADDED.id, pa.uint64())]
    byte = ScanColumn(ADDED.id, pa.uint8(), ADDED.fill)
    columns = [KEY, OLD, byte]
    narrow = [(KEY.id, KEY.type), (ADDED.id, pa.uint8())]
    engine.purge([TABLE])
    put(engine, [(1, 60, 59, Op.PUT, 1, 5), (2, 60, 59, Op.PUT, 2, 6)], narrow)
    put(engine, [(1, 70, 69, Op.PUT, 1, 2**64 - 1)], wide)
    put(engine, [(3, 80, 79, Op.PUT, 3, 7)], narrow)
    for _ in range(2):
        assert read(engine, 60, KEY, byte) == [(1, 5), (2, 6)]
        assert read(engine, 80, KEY) == [(1,), (2,), (3,)]
        with pytest.raises(UnrepresentableValueError):
            read(engine, 80, byte)
        engine.compact(TABLE, columns, everything=True)
    engine.flush(TABLE, columns)
    put(engine, [(1, 90, 89, Op.PUT, 1, 8)], narrow)
    engine.compact(TABLE, columns, safe_point=TimeStamp(90), everything=True)
    assert read(engine, 90, KEY, byte) == [(1, 8), (2, 6), (3, 7)]


def test_integers_beyond_their_type_are_carried_with_rows_that_lack_them(
    engine: MagicEngine,
) -> None:
    added = ScanColumn(ADDED.id, pa.uint32(), Default(pa.scalar(7, pa.uint32())))
    columns = [KEY, OLD, added]
    engine.purge([TABLE])
    put(engine, [(1, 60, 59, Op.PUT, 1, 5), (2, 60, 59, Op.PUT, 2, 6)], BEFORE)
    wide = [(KEY.id, KEY.type), (added.id, pa.uint64())]
    put(engine, [(3, 70, 69, Op.PUT, 3, 2**64 - 1)], wide)
    for number in range(3):
        engine.compact(TABLE, columns, everything=True)
        assert read(engine, 60, KEY, added) == [(1, 7), (2, 7)]
        with pytest.raises(UnrepresentableValueError):
            read(engine, 80, added)
        put(engine, [(4 + number, 90, 89, Op.PUT, 4 + number, 8)], BEFORE)
    put(engine, [(3, 100, 99, Op.DELETE)], wide)
    engine.compact(TABLE, columns, safe_point=TimeStamp(100), everything=True)
    assert read(engine, 100, KEY, added) == [(key, 7) for key in (1, 2, 4, 5, 6)]
