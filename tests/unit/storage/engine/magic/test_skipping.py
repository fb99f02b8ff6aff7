"""Scans read only the row groups that may have matching rows; damage never hides rows."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.pushdown.pushdown import Pushdown
from pyspark_theflash.read.pushdown.term import ColumnTerm, FunctionTerm, LiteralKind, LiteralTerm
from pyspark_theflash.storage.engine.magic import bloom, encode, file, file_cache
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType

NAME = "shop.event"
TABLE = table_info(
    1,
    NAME,
    [
        id_column(),
        column("day", MySQLType.DATE),
        column("number", MySQLType.LONGLONG),
        column("code", MySQLType.VARCHAR, collate="utf8mb4_bin"),
    ],
)
ROWS = 20_000
GROUP_ROWS = 500
_NUMBERS = random.Random(7)
NUMBERS = [_NUMBERS.getrandbits(60) for _ in range(ROWS)]
VERSIONS: list[Any] = [
    (n, 150, [n, 18_000 + n // 100, NUMBERS[n], f"{NUMBERS[n]:x}"]) for n in range(ROWS)
]


class Reads:
    """The row groups that were read since `clear`, and the size of their columns."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self.size_bytes = 0

    @property
    def groups(self) -> int:
        return len(self._groups)

    def clear(self) -> None:
        self._groups, self.size_bytes = set(), 0

    def count(self, file: pq.ParquetFile, group: int, columns: Sequence[str]) -> None:
        self._groups.add(group)
        row_group = file.metadata.row_group(group)
        stored = (row_group.column(at) for at in range(row_group.num_columns))
        self.size_bytes += sum(
            c.total_compressed_size for c in stored if c.path_in_schema in columns
        )

    def of(self, store: Path, **options: Any) -> tuple[list[int], int, int]:
        """The ids of a scan, in order; row groups and bytes read."""
        self.clear()
        with open_snapshot(store) as snapshot:
            plan = snapshot.plan(NAME, **options)
            ids = [id for batch in snapshot.held(plan) for id in batch.column("id").to_pylist()]
        return sorted(ids), self.groups, self.size_bytes


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    counted = Reads()
    read = file_cache.read_row_group

    def counting(file: pq.ParquetFile, group: int, columns: Sequence[str]) -> Any:
        counted.count(file, group, columns)
        return read(file, group, columns)

    monkeypatch.setattr(file_cache, "read_row_group", counting)
    return counted


@pytest.fixture(scope="module", autouse=True)
def small_groups() -> Iterator[None]:
    """Row groups of few rows, in files that are not read whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "ROW_GROUP_ROWS", GROUP_ROWS)
        patch.setattr(encode, "STATISTICS_ROWS", GROUP_ROWS // 2)
        patch.setattr(encode, "SAMPLE_ROWS", GROUP_ROWS // 8)
        patch.setattr(file, "WHOLE_CHECK_BYTES", 0)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, small_groups: None) -> Path:
    """All rows in one file with 40 row groups."""
    path = tmp_path_factory.mktemp("skipping") / "store"
    StoreBuilder(path, TABLE).publish(200, {TABLE: VERSIONS})
    assert main(["compact", str(path)]) == 0
    return path


def equals(name: str, kind: LiteralKind, *values: Any) -> dict[str, Any]:
    """A filter of Spark for one of these values."""
    literals = (LiteralTerm(kind, value) for value in values)
    term = FunctionTerm("in" if len(values) > 1 else "=", (ColumnTerm(name), *literals))
    return {"pushed": Pushdown(term)}


def test_a_filter_on_clustered_values_reads_a_tenth(store: Path, reads: Reads) -> None:
    ids, groups, all_bytes = reads.of(store)
    assert (len(ids), groups) == (ROWS, ROWS // GROUP_ROWS)
    term = FunctionTerm(
        "and",
        tuple(
            FunctionTerm(name, (ColumnTerm("day"), LiteralTerm(LiteralKind.DATE, day)))
            for name, day in ((">=", 18_040), ("<=", 18_049))
        ),
    )
    for options in ({"pushed": Pushdown(term)}, {"where": "day BETWEEN 20190524 AND 20190602"}):
        ids, groups, size_bytes = reads.of(store, **options)
        assert ids == list(range(4_000, 5_000))
        assert groups == 2
        assert size_bytes <= all_bytes / 10


def test_a_lookup_reads_two_row_groups(store: Path, reads: Reads) -> None:
    for n in range(0, ROWS, ROWS // 7):
        for options in (
            equals("number", LiteralKind.INT, NUMBERS[n]),
            equals("code", LiteralKind.STRING, f"{NUMBERS[n]:x}"),
            {"where": f"number = {NUMBERS[n]}"},
        ):
            ids, groups, _ = reads.of(store, **options)
            assert ids == [n]
            assert groups <= 2


def test_a_lookup_of_several_values(store: Path, reads: Reads) -> None:
    ids, groups, _ = reads.of(store, **equals("number", LiteralKind.INT, NUMBERS[7], NUMBERS[9999]))
    assert ids == [7, 9999]
    assert groups <= 3
    assert reads.of(store, **equals("number", LiteralKind.INT, -1, 5))[0] == []


def test_newer_versions_count(tmp_path: Path, store: Path, reads: Reads) -> None:
    """A row that a delta changes is found by its new value only, before and after merging."""
    path = tmp_path / "store"
    changed = [19_999, 18_000, NUMBERS[3], "new"]
    builder = StoreBuilder(path, TABLE).publish(200, {TABLE: VERSIONS})
    assert main(["compact", str(path)]) == 0
    builder.publish(300, {TABLE: [(3, 250, None), (19_999, 250, changed)]})
    for _ in range(2):
        assert reads.of(path, **equals("number", LiteralKind.INT, NUMBERS[3]))[0] == [19_999]
        assert reads.of(path, **equals("number", LiteralKind.INT, NUMBERS[19_999]))[0] == []
        assert reads.of(path, where="day = '2019-04-14'")[0] == [*range(3), *range(4, 100), 19_999]
        assert main(["gc", str(path), "--safe-point", "260"]) == 0


def test_files_without_statistics_are_read(
    tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "STATISTICS_ROWS", ROWS + 1)
    StoreBuilder(tmp_path / "store", TABLE).publish(200, {TABLE: VERSIONS})
    assert main(["compact", str(tmp_path / "store")]) == 0
    ids, groups, _ = reads.of(tmp_path / "store", **equals("number", LiteralKind.INT, NUMBERS[5]))
    assert (ids, groups) == ([5], ROWS // GROUP_ROWS)


def test_damaged_statistics_and_filters_raise(tmp_path: Path, reads: Reads) -> None:
    """No flipped bit in them makes a scan return fewer rows."""
    path = tmp_path / "store"
    StoreBuilder(path, TABLE).publish(200, {TABLE: VERSIONS})
    assert main(["compact", str(path)]) == 0
    (name,) = path.glob("data/1/*.parquet")
    data = name.read_bytes()
    metadata = pq.read_metadata(name)
    places = [
        column.bloom_filter_offset
        for group in range(metadata.num_row_groups)
        for at in range(metadata.num_columns)
        if (column := metadata.row_group(group).column(at)).bloom_filter_offset
    ]
    rng = random.Random(1)
    named = []
    for _ in range(25):
        at = rng.randrange(min(places), len(data))
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        name.write_bytes(damaged)
        n = rng.randrange(ROWS)
        try:
            assert reads.of(path, **equals("number", LiteralKind.INT, NUMBERS[n]))[0] == [n]
        except CorruptionError as error:
            named.append(str(name) in str(error))
    assert len(named) > 5
    assert all(named)


@pytest.mark.parametrize(
    ("data", "hash"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_hashes_are_those_of_xxhash(data: bytes, hash: int) -> None:
    """The expected values are published with python-xxhash."""
    assert bloom.xxh64(data) == hash
