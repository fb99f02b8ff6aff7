"""An engine under test, which is compared with the engine in memory."""

import pickle
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine.api import (
    Engine,
    HandleSet,
    Publication,
    RegionScan,
    RowCondition,
    ScanSpec,
    VersionBatch,
)
from pyspark_theflash.storage.mvcc.project import ScanColumn, dictionary_of
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, column_name
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.histories import COLUMNS, scan_columns, version_batch
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.tidb.codec.narrow import is_narrow

TABLES: Final = (PhysicalTableID(1), PhysicalTableID(2))
STRINGS: Final = [ColumnID(i) for i, tp in COLUMNS if pa.types.is_string(tp)]
Rows: TypeAlias = Sequence[tuple[Any, ...]]


class EngineUnderTest:
    """An engine that is compacted, and maybe opened again, after each publication."""

    def __init__(
        self, opener: Callable[[], Engine] = MemoryEngine, *, is_reopened: bool = False
    ) -> None:
        self._opener, self._is_reopened = opener, is_reopened
        self.columns = scan_columns()
        self.engine = opener()

    def publish(self, publication: Publication) -> None:
        """Publish, open the engine again if it is to be, and compact."""
        self.engine.publish(publication)
        if self._is_reopened:
            self.engine.close()
            self.engine = self._opener()
        for table in TABLES:
            self.engine.compact(table, self.columns)

    def put(self, rows: Rows, columns: Sequence[tuple[int, pa.DataType]] = COLUMNS) -> None:
        """Publish rows of table 1."""
        batch = version_batch(rows, [(ColumnID(i), tp) for i, tp in columns])
        self.publish(Publication([VersionBatch(TABLES[0], batch)], ManifestChange()))

    def scan(
        self, snapshot_ts: int, columns: Sequence[ScanColumn] | None = None, **options: Any
    ) -> Counter[tuple[Any, ...]]:
        """Return the rows of table 1, and a count of them under the key ()."""
        return self.scan_table(TABLES[0], snapshot_ts, columns, **options)

    def scan_table(
        self,
        table: PhysicalTableID,
        snapshot_ts: int,
        columns: Sequence[ScanColumn] | None = None,
        *,
        with_handle: bool = False,
        dictionaries: Collection[ColumnID] = (),
        as_stored: bool = False,
        condition: RowCondition | None = None,
        without: HandleSet | None = None,
    ) -> Counter[tuple[Any, ...]]:
        """Return the rows of a table, and a count of them under the key ()."""
        wanted = self.columns if columns is None else columns
        names = [HANDLE] * with_handle + [column_name(c.id) for c in wanted]
        types = [dictionary_of(c.type) if c.id in dictionaries else c.type for c in wanted]
        options = {
            "with_handle": with_handle,
            "dictionaries": dictionaries,
            "as_stored": as_stored,
            "condition": condition,
            "without": without,
        }
        plan = self.engine.plan(self.engine.read([]), table)
        regions = pickle.loads(pickle.dumps(plan))  # noqa: S301 (our own)
        scans = [self._rows(regions, wanted, snapshot_ts, names, types, options) for _ in "12"]
        # Caches that the first scan fills change nothing.
        assert scans[0] == scans[1]
        return scans[0]

    def _rows(
        self,
        regions: Sequence[RegionScan],
        wanted: Sequence[ScanColumn],
        snapshot_ts: int,
        names: Sequence[str],
        types: Sequence[pa.DataType],
        options: dict[str, Any],
    ) -> Counter[tuple[Any, ...]]:
        rows: Counter[tuple[Any, ...]] = Counter()
        for region in regions:
            filled = {column_name(i) for i in self.engine.never_null(region, wanted)}
            for batch in self.engine.scan(
                region, ScanSpec(wanted, TimeStamp(snapshot_ts), **options)
            ):
                assert not any(batch.column(name).null_count for name in filled)
                assert batch.schema.names == names
                shown = batch.schema.types[options["with_handle"] :]
                assert (list(map(dense, shown, types)) if options["as_stored"] else shown) == types
                rows.update(zip(*(c.to_pylist() for c in batch.columns), strict=True))
                rows[()] += batch.num_rows
        return rows

    def keys(self, table: PhysicalTableID, start: Any, end: Any) -> Counter[tuple[Any, ...]]:
        """Return the stored keys of the rows from `start` to before `end`."""
        view = self.engine.read([])
        stored: Counter[tuple[Any, ...]] = Counter()
        for batch in self.engine.keys(view, table, start, end):
            assert batch.schema.names == [HANDLE, COMMIT_TS, OP]
            stored.update(zip(*(c.to_pylist() for c in batch.columns), strict=True))
        return stored

    @staticmethod
    def ranges(table: PhysicalTableID, memory: "EngineUnderTest") -> list[tuple[Any, Any]]:
        """Return some ranges of stored handles, with and without bounds."""
        handles = sorted({key[0] for key in memory.keys(table, None, None)})
        if not handles:
            return []
        middle = handles[len(handles) // 2]
        return [(None, middle), (middle, handles[-1])]


def dense(tp: pa.DataType, wanted: pa.DataType) -> pa.DataType:
    """Return the type to compare values with, for a narrow or encoded type."""
    if is_narrow(tp):
        return wanted if tp.scale == wanted.scale else tp
    return tp.value_type if pa.types.is_dictionary(tp) else tp


class Keeps:
    """A condition that selects rows by the length of a column's value."""

    def __init__(self, column: ScanColumn) -> None:
        self.columns = [column]

    def rows(
        self, batch: pa.RecordBatch, visible: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.bool_]:
        assert batch.schema.names == [column_name(self.columns[0].id)]
        matches = np.array([self.keeps(v) for v in batch.column(0).to_pylist()], np.bool_)
        return matches if visible is None else matches & visible

    @staticmethod
    def keeps(value: Any) -> bool:
        return len(repr(value)) % 2 == 0


def kept(rows: Counter[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """Return the rows that their first value selects, without that value."""
    remaining: Counter[tuple[Any, ...]] = Counter()
    for row, count in rows.items():
        if row and Keeps.keeps(row[0]):
            remaining[row[1:]] += count
            remaining[()] += count
    return remaining


def assert_same(
    subject: EngineUnderTest, memory: EngineUnderTest, timestamps: Iterable[int]
) -> None:
    """Compare all ways to scan both tables, their keys and the records."""
    for table in TABLES:
        for ts in timestamps:
            where = table, ts
            got = subject.scan_table(table, ts, with_handle=True)
            assert got == memory.scan_table(table, ts, with_handle=True), where
            got = subject.scan_table(table, ts, dictionaries=STRINGS)
            assert got == memory.scan_table(table, ts), where
            got = subject.scan_table(table, ts, as_stored=True)
            assert got == memory.scan_table(table, ts), where
            for column in subject.columns[:2]:
                others = subject.columns[1:]
                got = subject.scan_table(table, ts, others, condition=Keeps(column))
                assert got == kept(memory.scan_table(table, ts, [column, *others])), where
            assert_left_out(subject, memory, table, ts)
            one, two = subject.columns[1:2], subject.columns[::-2]
            for columns in (one, two, []):
                got = subject.scan_table(table, ts, columns)
                assert got == memory.scan_table(table, ts, columns), where
        for start, end in ((None, None), *subject.ranges(table, memory)):
            keys = subject.keys(table, start, end)
            assert keys == memory.keys(table, start, end), (table, start, end)
    for kinds in (["note", "round"], ["round"], ["nothing"]):
        views = [each.engine.read(kinds) for each in (subject, memory)]
        for kind in kinds:
            got_records, records = (list(view.of_kind(kind).items()) for view in views)
            assert got_records == records


def assert_left_out(
    subject: EngineUnderTest, memory: EngineUnderTest, table: PhysicalTableID, ts: int
) -> None:
    """A scan that leaves out some rows, also rows that do not exist, returns the others."""
    handles = sorted({key[0] for key in memory.keys(table, None, None)})
    if not handles:
        return
    chosen = [*handles[::2], handles[-1] + type(handles[-1])(1)]
    got = subject.scan_table(table, ts, with_handle=True, without=HandleSet(pa.array(chosen)))
    rows = memory.scan_table(table, ts, with_handle=True)
    left = Counter({row: n for row, n in rows.items() if row and row[0] not in chosen})
    left[()] = left.total()
    assert +got == +left, (table, ts)
