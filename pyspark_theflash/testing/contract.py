"""Tests of the contract of `storage.engine.api`, one engine compared with the one in memory.

Each scan at each timestamp must return the same rows as `MemoryEngine`, after each publication,
also if the engine is opened again each time.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyspark_theflash.base.errors import InternalError
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine.api import Publication, ScanSpec, VersionBatch
from pyspark_theflash.storage.mvcc.project import Default, ScanColumn
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    START_TS,
    Op,
    version_schema,
)
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.testing.case import EngineCase, shows
from pyspark_theflash.testing.histories import COLUMNS, publications, version_batch
from pyspark_theflash.testing.subject import (
    TABLES,
    EngineUnderTest,
    Keeps,
    Rows,
    assert_same,
)
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column, parse_column

_KEPT_OPEN: Final = "kept open"
_REOPENED: Final = "opened again"
_HISTORIES: Final = st.lists(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=4), max_size=3
    ),
    min_size=1,
    max_size=6,
)
"""Publications of batches of (handle, whether it is a put)."""


def _keys_of(batches: Iterable[pa.RecordBatch]) -> list[tuple[Any, int]]:
    """Return (handle, commit_ts) of versions, whose start_ts is one less, and check their names."""
    keys: list[tuple[Any, int]] = []
    for batch in batches:
        assert batch.schema.names[:4] == [HANDLE, COMMIT_TS, START_TS, OP]
        assert sorted(batch.schema.names[4:]) == ["a1", "a2", "a9", "c1", "c2", "c9"]
        handles, commit_ts, start_ts = (batch.column(n).to_pylist() for n in range(3))
        assert start_ts == [ts - 1 for ts in commit_ts]
        keys += zip(handles, commit_ts, strict=True)
    return keys


class ContractTests(EngineCase):
    """Tests of an engine through its contract only.

    Attributes:
        is_durable: Whether an engine that is opened again has what was published.
        least_regions: The least number of regions of a compacted table of 18 rows.
    """

    is_durable: ClassVar[bool] = True
    least_regions: ClassVar[int] = 1

    def subject_at(self, path: Path, *, is_reopened: bool = False) -> EngineUnderTest:
        """Return an engine over a new store."""
        self.create(path)
        return EngineUnderTest(partial(self.open_engine, path), is_reopened=is_reopened)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run tests on an engine that is kept open, and on one that is opened again."""
        if "treatment" in metafunc.fixturenames:
            treatments = [_KEPT_OPEN, _REOPENED] if self.is_durable else [_KEPT_OPEN]
            metafunc.parametrize("treatment", treatments)

    @pytest.fixture
    def subject(self, treatment: str, tmp_path: Path) -> Iterator[EngineUnderTest]:
        """Return the engine under test."""
        made = self.subject_at(tmp_path / "store", is_reopened=treatment == _REOPENED)
        yield made
        made.engine.close()

    @shows("P1")
    @pytest.mark.parametrize(("seed", "binary"), [(0, False), (1, True)])
    def test_a_random_history(self, subject: EngineUnderTest, seed: int, binary: bool) -> None:
        """Compare all ways to scan after each publication of a history."""
        rng = random.Random(seed)
        memory = EngineUnderTest()
        for publication in publications(rng, rounds=8, keys=8, binary=binary):
            memory.publish(publication)
            subject.publish(publication)
            assert_same(subject, memory, [rng.randrange(100, 1400) for _ in range(2)])
        assert_same(subject, memory, range(100, 1400, 100))

    @shows("P1")
    @given(history=_HISTORIES)
    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    def test_any_short_history(
        self,
        history: list[list[list[tuple[int, bool]]]],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        """Compare scans at all timestamps of histories that Hypothesis makes."""
        path = tmp_path_factory.mktemp("any") / "store"
        subject, memory = self.subject_at(path), EngineUnderTest()
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

    @shows("P1")
    def test_tables_without_rows(self, subject: EngineUnderTest) -> None:
        """A table without versions has no rows; a publication without rows changes records."""
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

    @shows("P1")
    def test_deletes_of_rows_that_never_existed(self, subject: EngineUnderTest) -> None:
        """Deletes of rows that do not exist change nothing."""
        subject.put([(1, 10, 9, Op.DELETE, None, None), (2, 10, 9, Op.PUT, 1, "")])
        subject.put([(3, 20, 19, Op.DELETE, None, None)])
        subject.put([(1, 30, 29, Op.PUT, 2, ""), (3, 31, 29, Op.PUT, 3, "")])
        assert subject.scan(25)[()] == 1
        assert subject.scan(31)[()] == 3

    @shows("P1")
    def test_a_row_in_several_batches_of_one_publication(self, subject: EngineUnderTest) -> None:
        """Each version is visible until the next one, within a publication too."""
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

    @shows("P8")
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
        self, subject: EngineUnderTest, old: pa.DataType, new: pa.DataType, values: list[Any]
    ) -> None:
        """Values that were stored with a narrower type are returned with the wider one."""
        subject.columns = [ScanColumn(ColumnID(1), new, Default(pa.scalar(None, new)))]
        subject.put([(n, 10, 9, Op.PUT, v) for n, v in enumerate(values)], [(1, old)])
        subject.put([(n + 9, 20, 9, Op.PUT, v) for n, v in enumerate(values)], [(1, new)])
        subject.put([(99, 30, 29, Op.PUT, None)], [(1, new)])
        assert subject.scan(10) == Counter({(values[0],): 1, (values[1],): 1, (): 2})
        assert subject.scan(30) == Counter({(values[0],): 2, (values[1],): 2, (None,): 1, (): 5})

    @shows("P8")
    def test_decimals_that_are_only_compared(self, subject: EngineUnderTest) -> None:
        """They equal those that are returned, whether or not they fit in 64 bits."""
        small, large = pa.decimal128(7, 2), pa.decimal128(18, 3)
        columns = [(ColumnID(1), small), (ColumnID(2), large), (ColumnID(3), pa.decimal128(38, 2))]
        subject.columns = [ScanColumn(i, tp, Default(pa.scalar(None, tp))) for i, tp in columns]
        values: list[list[Decimal | None]] = [
            [Decimal("-99999.99"), Decimal("-999999999999999.999"), Decimal("0.01")],
            [Decimal("0.01"), Decimal("1.000"), Decimal("-1.00")],
            [None, None, None],
            [Decimal("12.30"), Decimal("999999999999999.999"), None],
        ]
        subject.put([(n, 10, 9, Op.PUT, *row) for n, row in enumerate(values)], columns)
        every: Counter[tuple[Any, ...]] = Counter([*map(tuple, values), *[()] * len(values)])
        assert subject.scan(10) == every
        assert subject.scan(10, as_stored=True) == every
        for column in subject.columns:
            at = subject.columns.index(column)
            rows = [tuple(row) for row in values if Keeps.keeps(row[at])]
            expected = Counter([*rows, *[()] * len(rows)])
            assert subject.scan(10, condition=Keeps(column)) == expected
            assert subject.scan(10, as_stored=True, condition=Keeps(column)) == expected

    @shows("P8")
    def test_columns_that_come_and_go(self, subject: EngineUnderTest) -> None:
        """A version without a column has its default; one with the column may be NULL."""
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

    @shows("P1")
    @pytest.mark.parametrize("binary", [False, True])
    def test_all_versions_can_be_copied(self, subject: EngineUnderTest, binary: bool) -> None:
        """An engine that gets all versions in the order of their handles returns the same rows."""
        memory, copy = EngineUnderTest(), EngineUnderTest()
        for publication in publications(random.Random(7), rounds=6, keys=12, binary=binary):
            subject.publish(publication)
            memory.publish(publication)
        view = subject.engine.read(["note", "round"])
        for table in TABLES:
            batches = list(subject.engine.versions(view, table, subject.columns, None))
            keys = _keys_of(batches)
            assert keys == sorted(set(keys))
            middle = keys[len(keys) // 2][0]
            rest = subject.engine.versions(view, table, subject.columns, middle)
            assert _keys_of(rest) == [key for key in keys if key[0] >= middle]
            versions = [VersionBatch(table, batch) for batch in batches]
            copy.engine.publish(Publication(versions, ManifestChange()))
        records = [Record(k, *item) for k, of in view.records.items() for item in of.items()]
        copy.engine.publish(Publication([], ManifestChange(records)))
        assert_same(copy, memory, range(100, 1400, 50))

    @shows("P5")
    def test_records_are_put_replaced_and_deleted(self, subject: EngineUnderTest) -> None:
        """Records change as a whole, or not at all if one to delete does not exist."""

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

    @shows("P12")
    def test_a_safe_point_drops_what_no_snapshot_may_read(self, subject: EngineUnderTest) -> None:
        """A collection drops versions that no snapshot at or above it sees, and only these."""
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

    @shows("P12")
    def test_a_table_of_garbage_is_nothing(self, subject: EngineUnderTest) -> None:
        """A table whose last version is collected has no regions, and takes new rows."""
        subject.put([(1, 10, 9, Op.PUT, 1, None), (2, 10, 9, Op.PUT, 2, None)])
        subject.put([(n, 20, 19, Op.DELETE, None, None) for n in (1, 2)])
        subject.engine.compact(
            TABLES[0], subject.columns, safe_point=TimeStamp(20), everything=True
        )
        view = subject.engine.read([])
        assert list(subject.engine.plan(view, TABLES[0])) == []
        assert list(subject.engine.regions(view, TABLES[0])) == []
        subject.put([(1, 30, 29, Op.PUT, 5, None)])
        assert subject.scan(30)[()] == 1

    @shows("P7")
    def test_regions_cover_a_table(self, subject: EngineUnderTest) -> None:
        """Regions are adjacent, have ids of their own, and contain their rows."""
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
        assert len(regions) >= self.least_regions
        for region, scan in zip(regions, scans, strict=True):
            spec = ScanSpec([], TimeStamp(99), with_handle=True)
            batches = subject.engine.scan(scan, spec)
            handles = [h for batch in batches for h in batch.column(HANDLE).to_pylist()]
            assert handles
            assert region.covers(min(handles), max(handles))

    @shows("P7")
    def test_a_purge_removes_tables_at_once(self, subject: EngineUnderTest) -> None:
        """A purge removes all rows of its tables, which then take new rows."""
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

    @shows("P8")
    def test_dates_that_python_does_not_have(self, subject: EngineUnderTest) -> None:
        """TiDB stores dates such as 2024-02-31; here they lie beyond the year 9999."""
        far = pa.array([3_000_000, 4_000_000], pa.int32()).cast(pa.date32())
        subject.columns = [
            ScanColumn(ColumnID(1), pa.date32(), Default(pa.scalar(None, pa.date32())))
        ]
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

    @shows("P8")
    def test_values_of_every_kind(self, subject: EngineUnderTest) -> None:
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
            spec = ScanSpec(subject.columns, TimeStamp(ts))
            for batch in (b for r in regions for b in subject.engine.scan(r, spec)):
                shown = map(format_column, batch.columns, types)
                printed.update(zip(*(column.to_pylist() for column in shown), strict=True))
            assert printed == Counter(expected)

    @shows("S4")
    def test_text_in_keys_and_values(self, subject: EngineUnderTest) -> None:
        """Text that means something to SQL, to paths and to format strings."""
        texts = [
            "'; DROP TABLE t; --",
            "../../etc/passwd",
            "a\0b",
            "%s{0}${x}",
            "`\"\\'",
            "\n\t",
            "",
        ]
        rows = [(b"\1" + text.encode(), 10, 9, Op.PUT, n, text) for n, text in enumerate(texts)]
        subject.publish(
            Publication(
                [VersionBatch(TABLES[0], version_batch(rows, COLUMNS, pa.binary()))],
                ManifestChange([Record(text, text, text.encode()) for text in texts]),
            )
        )
        expected = {(row[0], *row[4:]) for row in rows}
        columns = subject.columns[:2]
        assert {row for row in subject.scan(10, columns, with_handle=True) if row} == expected
        assert {row[0] for row in subject.keys(TABLES[0], rows[1][0], None) if row} == {
            row[0] for row in rows if row[0] >= rows[1][0]
        }
        for text in texts:
            assert subject.engine.read([text]).of_kind(text) == {text: text.encode()}
