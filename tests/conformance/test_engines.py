"""The contract of `storage.engine.api`, over every engine and what a store lives through.

Every scan at every timestamp must return the same rows as `memory`, after every publication: also
if the engine is opened again each time, or compacts its files each time into regions of a few
rows, and if it treats all of its files as large ones.
"""

import pickle
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import InternalError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import (
    HandleSet,
    Publication,
    RegionScan,
    RowCondition,
    ScanSpec,
    VersionBatch,
)
from pyspark_theflash.storage.engine.magic import file
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn, dictionary_of
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    Op,
    column_name,
    version_schema,
)
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.narrow import is_narrow
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from tests.support.histories import COLUMNS, publications, scan_columns, version_batch
from tests.support.memory_engine import MemoryEngine

LARGE = "magic compacted into large files"
TREATMENTS = ("memory", "magic", "magic reopened", "magic compacted", LARGE)
TABLES = (PhysicalTableID(1), PhysicalTableID(2))
FS, CLOCK = LocalFileSystem(), SystemClock()
EAGER = CompactionLimits(region_rows=4, direct_rows=2, deltas=2, layer_rows=1, layers=2)
STRINGS = [ColumnID(i) for i, tp in COLUMNS if pa.types.is_string(tp)]
Rows = Sequence[tuple[Any, ...]]


class Subject:
    """An engine, and the operation on it after each publication."""

    def __init__(self, treatment: str, path: Path) -> None:
        self.treatment, self.path = treatment, path
        self.columns = scan_columns()
        if treatment != "memory":
            self.identity = registry.create(path, registry.MAGIC, FS)
        self.engine = self._open()

    def _open(self) -> Any:
        if self.treatment == "memory":
            return MemoryEngine()
        limits = EAGER if self.treatment in ("magic compacted", LARGE) else None
        return MagicEngine(self.path, FS, CLOCK, limits=limits)

    def publish(self, publication: Publication) -> None:
        self.engine.publish(publication)
        if self.treatment == "magic reopened":
            self.engine.close()
            self.engine = self._open()
        for table in TABLES:
            self.engine.compact(table, self.columns)

    def put(self, rows: Rows, columns: Sequence[tuple[int, pa.DataType]] = COLUMNS) -> None:
        """Publish rows of table 1."""
        batch = version_batch(rows, [(ColumnID(i), tp) for i, tp in columns])
        self.publish(Publication([VersionBatch(TABLES[0], batch)], ManifestChange()))

    def scan(
        self, snapshot_ts: int, columns: Sequence[ScanColumn] | None = None, **options: bool
    ) -> Counter[tuple[Any, ...]]:
        """The rows of table 1."""
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
        regions = pickle.loads(pickle.dumps(self.engine.plan(self.engine.read([]), table)))
        scans = [self._rows(regions, wanted, snapshot_ts, names, types, options) for _ in "12"]
        # What an engine remembers of the first time changes nothing.
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
    def ranges(table: PhysicalTableID, memory: "Subject") -> list[tuple[Any, Any]]:
        """Some ranges of handles that are there, with and without bounds."""
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
    """Keeps rows by a column, for no reason in particular."""

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


@pytest.fixture(params=TREATMENTS)
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterable[Subject]:
    if request.param == LARGE:
        monkeypatch.setattr(file, "WHOLE_CHECK_BYTES", 0)
    made = Subject(request.param, tmp_path / "store")
    yield made
    made.engine.close()


def assert_same(subject: Subject, memory: Subject, timestamps: Iterable[int]) -> None:
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
        got, wanted = subject.engine.read(kinds), memory.engine.read(kinds)
        for kind in kinds:
            assert list(got.of_kind(kind).items()) == list(wanted.of_kind(kind).items())


def assert_left_out(subject: Subject, memory: Subject, table: PhysicalTableID, ts: int) -> None:
    """Without some rows, among them some that there are not, the others come."""
    handles = sorted({key[0] for key in memory.keys(table, None, None)})
    if not handles:
        return
    chosen = [*handles[::2], handles[-1] + type(handles[-1])(1)]
    got = subject.scan_table(table, ts, with_handle=True, without=HandleSet(pa.array(chosen)))
    rows = memory.scan_table(table, ts, with_handle=True)
    left = Counter({row: n for row, n in rows.items() if row and row[0] not in chosen})
    left[()] = left.total()
    assert +got == +left, (table, ts)


@pytest.mark.parametrize(("seed", "binary"), [(0, False), (1, True)])
def test_a_random_history(subject: Subject, seed: int, binary: bool, tmp_path: Path) -> None:
    rng = random.Random(seed)
    memory = Subject("memory", tmp_path)
    for publication in publications(rng, rounds=8, keys=8, binary=binary):
        memory.publish(publication)
        subject.publish(publication)
        assert_same(subject, memory, [rng.randrange(100, 1400) for _ in range(2)])
    assert_same(subject, memory, range(100, 1400, 100))


HISTORIES = st.lists(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=4), max_size=3
    ),
    min_size=1,
    max_size=6,
)
"""Publications of batches of (handle, whether it is a put)."""


@given(history=HISTORIES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_short_history(
    history: list[list[list[tuple[int, bool]]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    subject = Subject("magic compacted", tmp_path_factory.mktemp("any") / "store")
    memory = Subject("memory", subject.path)
    ts = 0
    for batches in history:
        versions = []
        for batch in batches:
            rows = [
                (handle, ts + n, ts + n, int(is_put), n if is_put else None, None)
                for n, (handle, is_put) in enumerate(batch, 1)
            ]
            ts += len(batch)
            versions.append(VersionBatch(TABLES[0], version_batch(rows, COLUMNS)))
        for engine in (subject, memory):
            engine.publish(Publication(versions, ManifestChange()))
    for at in range(ts + 2):
        assert subject.scan(at, with_handle=True) == memory.scan(at, with_handle=True)
    subject.engine.close()


def test_tables_without_rows(subject: Subject) -> None:
    assert not subject.scan(1000)
    generation = subject.engine.read([]).generation
    subject.publish(Publication([], ManifestChange([Record("note", "k", b"v")])))
    assert subject.engine.read([]).generation > generation
    subject.put([])
    assert +subject.scan(1000) == Counter()
    subject.put([(1, 10, 9, Op.PUT, 5, "x"), (1, 11, 9, Op.DELETE, None, None)])
    assert +subject.scan(11) == Counter()
    assert subject.scan(10) == Counter([(5, "x", 7), ()])
    assert subject.scan(10, []) == Counter([()])


def test_deletes_of_rows_that_never_were(subject: Subject) -> None:
    subject.put([(1, 10, 9, Op.DELETE, None, None), (2, 10, 9, Op.PUT, 1, "")])
    subject.put([(3, 20, 19, Op.DELETE, None, None)])
    subject.put([(1, 30, 29, Op.PUT, 2, ""), (3, 31, 29, Op.PUT, 3, "")])
    assert subject.scan(25)[()] == 1
    assert subject.scan(31)[()] == 3


def test_a_row_in_several_batches_of_one_publication(subject: Subject) -> None:
    batches: list[Rows] = [
        [(1, 10, 9, Op.PUT, 1, None), (1, 20, 19, Op.PUT, 2, None)],
        [(1, 30, 29, Op.DELETE, None, None), (1, 40, 39, Op.PUT, 4, None)],
        [(1, 50, 49, Op.PUT, 5, None)],
    ]
    versions = [VersionBatch(TABLES[0], version_batch(rows, COLUMNS)) for rows in batches]
    subject.publish(Publication(versions, ManifestChange()))
    first = subject.columns[:1]
    seen = [[r for r in subject.scan(ts, first) if r] for ts in range(9, 60, 10)]
    assert seen == [[], [(1,)], [(2,)], [], [(4,)], [(5,)]]


@pytest.mark.parametrize(
    ("old", "new", "values"),
    [
        (pa.int32(), pa.int64(), [-(2**31), 2**31 - 1]),
        (pa.uint8(), pa.uint64(), [0, 255]),
        (pa.decimal128(5, 2), pa.decimal128(20, 2), [Decimal("-999.99"), Decimal("0.01")]),
        (pa.decimal128(5, 2), pa.decimal256(50, 4), [Decimal("-999.99"), Decimal("0.01")]),
        (pa.float32(), pa.float64(), [0.5, -0.0]),
    ],
)
def test_a_widened_type(
    subject: Subject, old: pa.DataType, new: pa.DataType, values: list[Any]
) -> None:
    subject.columns = [ScanColumn(ColumnID(1), new, Default(pa.scalar(None, new)))]
    subject.put([(n, 10, 9, Op.PUT, v) for n, v in enumerate(values)], [(1, old)])
    subject.put([(n + 9, 20, 9, Op.PUT, v) for n, v in enumerate(values)], [(1, new)])
    subject.put([(99, 30, 29, Op.PUT, None)], [(1, new)])
    assert subject.scan(10) == Counter({(values[0],): 1, (values[1],): 1, (): 2})
    assert subject.scan(30) == Counter({(values[0],): 2, (values[1],): 2, (None,): 1, (): 5})


def test_decimals_that_are_only_looked_at(subject: Subject) -> None:
    """As those that are handed out, whether or not they take more bits than others."""
    small, large = pa.decimal128(7, 2), pa.decimal128(18, 3)
    columns = [(ColumnID(1), small), (ColumnID(2), large), (ColumnID(3), pa.decimal128(38, 2))]
    subject.columns = [ScanColumn(i, tp, Default(pa.scalar(None, tp))) for i, tp in columns]
    values = [
        [Decimal("-99999.99"), Decimal("-999999999999999.999"), Decimal("0.01")],
        [Decimal("0.01"), Decimal("1.000"), Decimal("-1.00")],
        [None, None, None],
        [Decimal("12.30"), Decimal("999999999999999.999"), None],
    ]
    subject.put([(n, 10, 9, Op.PUT, *row) for n, row in enumerate(values)], columns)
    every = Counter([*map(tuple, values), *[()] * len(values)])
    assert subject.scan(10) == every
    assert subject.scan(10, as_stored=True) == every
    for column in subject.columns:
        at = subject.columns.index(column)
        rows = [tuple(row) for row in values if Keeps.keeps(row[at])]
        expected = Counter([*rows, *[()] * len(rows)])
        assert subject.scan(10, condition=Keeps(column)) == expected
        assert subject.scan(10, as_stored=True, condition=Keeps(column)) == expected


def test_columns_that_come_and_go(subject: Subject) -> None:
    first = ScanColumn(ColumnID(1), pa.int64(), Default(pa.scalar(None, pa.int64())))
    added = ScanColumn(ColumnID(2), pa.int32(), Default(pa.scalar(7, pa.int32())))
    subject.columns = [first, added]
    subject.put([(1, 10, 9, Op.PUT, 1), (2, 11, 9, Op.PUT, 2)], [(1, pa.int64())])
    subject.put(
        [(2, 20, 19, Op.PUT, 22, None), (3, 20, 19, Op.PUT, 3, 33)],
        [(1, pa.int64()), (2, pa.int32())],
    )
    subject.put([(4, 30, 29, Op.PUT, 44)], [(2, pa.int32())])
    assert subject.scan(11) == Counter([(1, 7), (2, 7), (), ()])
    assert subject.scan(30)[()] == 4
    assert subject.scan(30, [added], with_handle=True) == Counter(
        [(1, 7), (2, None), (3, 33), (4, 44)] + [()] * 4
    )


def test_records_are_put_replaced_and_deleted(subject: Subject) -> None:
    def change(puts: dict[str, str], deletes: Sequence[str] = ()) -> Callable[[], None]:
        records = [Record("kind", k, v.encode()) for k, v in puts.items()]
        return lambda: subject.publish(
            Publication([], ManifestChange(records, [("kind", k) for k in deletes]))
        )

    def records() -> dict[str, bytes]:
        return dict(subject.engine.read(["kind"]).of_kind("kind"))

    change({"b": "1", "a": "2", "é": "", "": "empty key"})()
    assert list(records().items()) == [("", b"empty key"), ("a", b"2"), ("b", b"1"), ("é", b"")]
    change({"a": "3", "c": "4"}, ["b", ""])()
    assert records() == {"a": b"3", "c": b"4", "é": b""}
    change({"a": "5"}, ["a"])()
    assert records() == {"a": b"5", "c": b"4", "é": b""}
    with pytest.raises(InternalError):
        change({"d": "6"}, ["nothing"])()
    assert records() == {"a": b"5", "c": b"4", "é": b""}


def test_a_safe_point_drops_what_nobody_may_read(subject: Subject) -> None:
    subject.put([(1, 10, 9, Op.PUT, 1, None), (2, 10, 9, Op.PUT, 2, None)])
    subject.put([(1, 20, 19, Op.PUT, 11, None), (2, 20, 19, Op.DELETE, None, None)])
    subject.put([(1, 30, 29, Op.DELETE, None, None), (3, 30, 29, Op.PUT, 3, None)])
    first = subject.columns[:1]
    before = {ts: subject.scan(ts, first) for ts in (20, 29, 30, 40)}
    assert before[29] == Counter([(11,), ()])

    def collect(safe_point: int) -> int:
        report = subject.engine.compact(
            TABLES[0], subject.columns, safe_point=TimeStamp(safe_point), everything=True
        )
        assert report.rows_read == report.rows_written + report.rows_dropped
        assert {ts: subject.scan(ts, first) for ts in before if ts >= safe_point} == {
            ts: rows for ts, rows in before.items() if ts >= safe_point
        }
        return int(report.rows_dropped)

    assert [collect(ts) for ts in (9, 25, 30)] == [0, 3, 2]
    assert subject.scan(30, first) == Counter([(3,), ()])
    regions = subject.engine.regions(subject.engine.read([]), TABLES[0])
    assert sum(region.rows for region in regions) == 1


def test_a_table_of_garbage_is_nothing(subject: Subject) -> None:
    subject.put([(1, 10, 9, Op.PUT, 1, None), (2, 10, 9, Op.PUT, 2, None)])
    subject.put([(n, 20, 19, Op.DELETE, None, None) for n in (1, 2)])
    subject.engine.compact(TABLES[0], subject.columns, safe_point=TimeStamp(20), everything=True)
    view = subject.engine.read([])
    assert list(subject.engine.plan(view, TABLES[0])) == []
    assert list(subject.engine.regions(view, TABLES[0])) == []
    subject.put([(1, 30, 29, Op.PUT, 5, None)])
    assert subject.scan(30)[()] == 1


def test_regions_cover_a_table(subject: Subject) -> None:
    for start in range(-9, 9, 3):
        subject.put([(n, 20 + start, 19, Op.PUT, n, None) for n in range(start, start + 3)])
    subject.engine.compact(TABLES[0], subject.columns, everything=True)
    view = subject.engine.read([])
    regions = list(subject.engine.regions(view, TABLES[0]))
    assert (regions[0].start, regions[-1].end) == (None, None)
    assert [r.end for r in regions[:-1]] == [r.start for r in regions[1:]]
    assert len({r.region_id for r in regions}) == len(regions)
    assert sum(r.rows for r in regions) == 18
    assert [r.deltas for r in regions] == [0] * len(regions)
    scans = subject.engine.plan(view, TABLES[0])
    assert [s.region_id for s in scans] == [r.region_id for r in regions]
    if subject.treatment == "magic compacted":
        assert len(regions) >= 4
        handles = [
            {
                h
                for b in subject.engine.scan(s, ScanSpec([], TimeStamp(99), with_handle=True))
                for h in b.column(HANDLE).to_pylist()
            }
            for s in scans
        ]
        for region, in_region in zip(regions, handles, strict=True):
            assert in_region
            assert region.start is None or min(in_region) >= region.start
            assert region.end is None or max(in_region) < region.end


def test_a_purge_removes_tables_at_once(subject: Subject) -> None:
    rows = [(n, 10, 9, Op.PUT, n, None) for n in range(9)]
    for table in TABLES:
        batch = version_batch(rows, COLUMNS)
        subject.publish(Publication([VersionBatch(table, batch)], ManifestChange()))
    generation = subject.engine.read([]).generation
    assert subject.engine.purge([TABLES[0], PhysicalTableID(77)]) > generation
    assert not subject.scan(20)
    assert subject.scan_table(TABLES[1], 20)[()] == 9
    subject.put([(1, 30, 29, Op.PUT, 5, None)])
    assert subject.scan(20, [])[()] == 0
    assert subject.scan(30)[()] == 1


def test_dates_that_python_has_not(subject: Subject) -> None:
    """TiDB stores dates such as 2024-02-31; here they lie beyond the year 9999."""
    far = pa.array([3_000_000, 4_000_000], pa.int32()).cast(pa.date32())
    subject.columns = [ScanColumn(ColumnID(1), pa.date32(), Default(pa.scalar(None, pa.date32())))]
    system = [("_handle", pa.int64()), ("_commit_ts", pa.uint64()), ("_start_ts", pa.uint64())]
    for start in (0, 10, 20):
        arrays = [pa.array([start, start + 1], tp) for _, tp in system]
        names = [*(name for name, _ in system), "_op", "c1"]
        ops = pa.array([1, 1], pa.uint8())
        batch = pa.RecordBatch.from_arrays([*arrays, ops, far], names=names)
        subject.publish(Publication([VersionBatch(TABLES[0], batch)], ManifestChange()))
    subject.engine.compact(TABLES[0], subject.columns, everything=True)
    days = [
        day
        for region in subject.engine.plan(subject.engine.read([]), TABLES[0])
        for batch in subject.engine.scan(region, ScanSpec(subject.columns, TimeStamp(99)))
        for day in batch.column(0).cast(pa.int32()).to_pylist()
    ]
    assert sorted(days) == [3_000_000] * 3 + [4_000_000] * 3


def test_a_reader_sees_what_is_published(tmp_path: Path) -> None:
    subject = Subject("magic", tmp_path / "store")
    reader = registry.open_reader(subject.path, subject.identity, FS, CLOCK)
    before = reader.read([])
    subject.put([(1, 10, 9, Op.PUT, 1, None)])
    assert reader.plan(before, TABLES[0]) == []
    assert len(reader.plan(reader.read([]), TABLES[0])) == 1
    reader.close()
    subject.engine.close()


def test_values_of_every_kind(subject: Subject) -> None:
    """Impossible dates lie beyond the years of Python's own; a vector is a list."""
    texts = {
        MySQLType.DATE: ["0000-00-00", "2020-02-31", "9999-12-31", None],
        MySQLType.DATETIME: ["2020-00-10 23:59:59", "0000-01-01 00:00:00", None, None],
        MySQLType.TIMESTAMP: ["0000-00-00 00:00:00", None, "1970-01-01 00:00:01", None],
        MySQLType.JSON: ['{"a": [1, null]}', "null", None, '""'],
        MySQLType.VECTOR: ["[1,2.5]", "[]", None, "[-0.5]"],
    }
    types = [FieldType(tp) for tp in texts]
    stored = [parse_column(pa.array(texts[tp.tp]), tp, "c") for tp in types]
    subject.columns = [
        ScanColumn(ColumnID(i), values.type, Default(values[0]))
        for i, values in enumerate(stored, 1)
    ]
    rows = list(zip(*texts.values(), strict=True))
    # The first rows are older than all columns but one.
    for base, count in ((0, 1), (40, len(types))):
        columns = [(c.id, c.type) for c in subject.columns[:count]]
        schema = version_schema(pa.int64(), columns)
        system = [[base + n for n in range(4)], [base + 10] * 4, [base + 9] * 4, [1] * 4]
        arrays = [pa.array(c, f.type) for c, f in zip(system, schema, strict=False)]
        batch = pa.RecordBatch.from_arrays(arrays + stored[:count], schema=schema)
        subject.publish(Publication([VersionBatch(TABLES[0], batch)], ManifestChange()))
    regions = subject.engine.plan(subject.engine.read([]), TABLES[0])
    older = [(row[0], *rows[0][1:]) for row in rows]
    for ts, expected in ((9, []), (10, older), (50, older + rows)):
        printed: Counter[tuple[Any, ...]] = Counter()
        for batch in (
            b for r in regions for b in subject.engine.scan(r, ScanSpec(subject.columns, ts))
        ):
            columns = map(format_column, batch.columns, types)
            printed.update(zip(*(column.to_pylist() for column in columns), strict=True))
        assert printed == Counter(expected)
