"""Cached newest versions equal those computed from scratch, for any order of reads."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pyspark_theflash.base.budget import Budget
from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import ColumnID, TimeStamp
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.apply.versions import Versions, concat
from pyspark_theflash.storage.mvcc.project import ScanColumn, scan_column
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv import memory_versions as newest_module
from pyspark_theflash.tikv.memory_versions import MemoryVersions, NewestRows
from tests.support.row_oracle import encode_row_v2
from tests.unit.replication.apply.test_rows import ID, TABLE, TYPES, version

COLUMNS = [scan_column(TABLE, column) for column in TABLE.public_columns]
WITH_W = TimeStamp(40)
"""The timestamp at which the third column was added."""


def tables(end_ts: int) -> PhysicalTables:
    """Return a new history that ends at a timestamp."""
    before = replace(TABLE, columns=TABLE.columns[:2])
    events = [
        TableEvent(TimeStamp(1), TABLE.db, TABLE.id, before),
        TableEvent(WITH_W, TABLE.db, TABLE.id, TABLE),
    ]
    shown = [event for event in events if event.ts <= end_ts]
    return PhysicalTables(SchemaHistory(TimeStamp(1), TimeStamp(end_ts), shown, ()))


def row(handle: int, ts: int) -> dict[int, object]:
    """Return the columns of a version; the third was added later."""
    return {2: f"v{handle}@{ts}"} | ({3: handle * ts} if ts >= WITH_W else {})


def expected(
    commits: Sequence[tuple[int, int, bool]], ts: int, columns: Sequence[ScanColumn]
) -> dict[int, tuple[object, ...]]:
    """Return the newest versions, computed one by one."""
    newest = {}
    for handle, commit_ts, is_put in sorted(commits, key=lambda commit: commit[1]):
        if commit_ts <= ts:
            cells = {1: handle, 3: None, **row(handle, commit_ts)}
            newest[handle] = tuple(cells[c.id] for c in columns) if is_put else None
    return {handle: cells for handle, cells in newest.items() if cells is not None}


def read(
    versions: MemoryVersions | None, columns: Sequence[ScanColumn]
) -> dict[int, tuple[object, ...]]:
    rows = {}
    for batch in versions.batches(columns, with_handle=True) if versions else ():
        for handle, *cells in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            assert handle not in rows
            rows[handle] = tuple(cells)
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_reads_among_commits(seed: int) -> None:
    rng = random.Random(seed)
    cache, parts, commits = NewestRows(), [], []
    ts = 2
    for _ in range(40):
        piece = []
        for _ in range(rng.randrange(4)):
            ts += rng.randrange(1, 3)
            handle, is_put = rng.randrange(12), rng.random() < 0.8
            commits.append((handle, ts, is_put))
            value = encode_row_v2(row(handle, ts), TYPES) if is_put else None
            piece.append(version(handle, ts, value))
        if piece:
            parts.append(concat(piece))
        if rng.random() < 0.1:
            # The chunk has been published.
            flushed = rng.randrange(len(parts) + 1)
            gone = sum(len(part) for part in parts[:flushed])
            parts, commits = parts[flushed:], commits[gone:]
            if rng.random() < 0.5:
                cache.forget()
        at = ts if rng.random() < 0.7 else rng.randrange(1, ts + 1)
        resolved = []
        more = list(commits)
        if rng.random() < 0.2:
            resolved = [version(99, at, encode_row_v2(row(99, at), TYPES))]
            more.append((99, at, True))
        columns = rng.sample(COLUMNS, rng.randrange(len(COLUMNS) + 1))
        versions = cache.at(ID, list(parts), resolved, TimeStamp(at), tables(at))
        assert read(versions, columns) == expected(more, at, columns)
        deciding = sorted({handle for handle, commit_ts, _ in more if commit_ts <= at})
        assert (versions.handles.handles.to_pylist() if versions else []) == deciding


def test_a_row_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = newest_module.decode_versions

    def counting(physical_id, versions: Versions, definition, names):  # type: ignore[no-untyped-def]
        decoded.extend(versions.handles.to_pylist())
        return decode(physical_id, versions, definition, names)

    monkeypatch.setattr(newest_module, "decode_versions", counting)
    cache, under = NewestRows(), tables(100)
    parts = [version(handle, 50, encode_row_v2(row(handle, 50), TYPES)) for handle in (3, 1, 2)]

    def newest(count: int) -> dict[int, tuple[object, ...]]:
        versions = cache.at(ID, parts[:count], [], TimeStamp(60), under)
        return read(versions, COLUMNS[1:])

    for count in (2, 2, 3, 3):
        assert len(newest(count)) == count
    assert decoded == [1, 3, 2]


def test_what_cannot_be_decoded_is_told_each_time() -> None:
    cache = NewestRows()
    parts = [version(1, 50, b"\x80\x00")]
    for _ in range(2):
        versions = cache.at(ID, parts, [], TimeStamp(60), tables(100))
        with pytest.raises(CodecError):
            read(versions, COLUMNS)


def test_what_rows_lack_is_told_by_the_table_that_is_read() -> None:
    """After EXCHANGE PARTITION, a table can have other origin defaults than the rows' table."""

    def with_default(text: str) -> TableInfo:
        columns = (*TABLE.columns[:2], replace(TABLE.columns[2], origin_default=text))
        return replace(TABLE, columns=columns)

    written, shown = with_default("5"), with_default("7")
    event = TableEvent(TimeStamp(1), TABLE.db, TABLE.id, written)
    schema = PhysicalTables(SchemaHistory(TimeStamp(1), TimeStamp(90), [event], ()))
    rows = ({2: "a"}, {2: "b", 3: 3})
    parts = [version(n, 50, encode_row_v2(row, TYPES)) for n, row in enumerate(rows, 1)]
    versions = NewestRows().at(ID, [concat(parts)], [], TimeStamp(90), schema)
    for _ in range(2):
        assert read(versions, [scan_column(shown, shown.columns[2])]) == {1: (7,), 2: (3,)}
        assert read(versions, [scan_column(written, written.columns[2])]) == {1: (5,), 2: (3,)}


def test_long_defaults_come_in_small_batches() -> None:
    text = "x" * 10_000
    added = replace(TABLE.columns[1], id=ColumnID(9), name="added", origin_default=text)
    shown = replace(TABLE, columns=(*TABLE.columns, added))
    parts = [version(n, 50, encode_row_v2({2: "a"}, TYPES)) for n in range(100)]
    versions = NewestRows().at(ID, [concat(parts)], [], TimeStamp(90), tables(100))
    assert versions is not None
    batches = list(versions.batches([scan_column(shown, added)], budget=Budget(1 << 20)))
    assert max(batch.nbytes for batch in batches) <= 1 << 18
    assert [row for batch in batches for row in batch.column(0).to_pylist()] == [text] * 100
