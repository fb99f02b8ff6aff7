"""The newest version in memory of each row, decoded incrementally and shared by reads.

    chunks in the cache   a ── b ── c ── d        commits, in apply order
    cached by a read      ───────────┤            the newest version of each row up to c, and the
                                     │            columns that it decoded
    the next read                    └── d        merges d into them, and decodes only d

Chunks are immutable. When some of them have been published, the cached versions are dropped.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.rows import decode_versions, newest_places
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.apply.versions import Versions, concat
from pyspark_theflash.storage.engine.api import HandleSet
from pyspark_theflash.storage.mvcc.project import (
    ScanColumn,
    Stored,
    batch_of,
    project,
    stored_names,
)
from pyspark_theflash.storage.mvcc.version import HANDLE, Op, absence_name, column_name, is_absence
from pyspark_theflash.tidb.codec.array import joined
from pyspark_theflash.tidb.codec.reader import Positions
from pyspark_theflash.tidb.expression.allowance import in_slices
from pyspark_theflash.tidb.schema.model import TableInfo

_BATCH_ROWS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Rows written under one table definition: their places, and the columns decoded so far."""

    table: TableInfo
    places: Positions
    columns: dict[str, pa.Array]


@dataclass(frozen=True, slots=True)
class _Earlier:
    """Columns decoded by an earlier read; `origin`: each version's place there, -1 if new."""

    decoded: dict[int, _Decoded]
    origin: Positions


class MemoryVersions:
    """The newest version of each row, including deletes. Thread-safe."""

    def __init__(
        self,
        physical_id: PhysicalTableID,
        versions: Versions,
        tables: PhysicalTables,
        earlier: _Earlier | None = None,
    ) -> None:
        """`versions` is not empty, sorted by handle, with one version per row."""
        self._physical_id, self._versions, self._tables = physical_id, versions, tables
        self.handles: Final = HandleSet(versions.handles)
        """The handles of all rows that have a version in memory."""
        self.newest_ts: Final = versions.newest_ts
        self._is_put = versions.op == Op.PUT
        self.rows: Final[int] = int(np.count_nonzero(self._is_put))
        """The number of versions that are not deletes."""
        self._mutex = threading.Lock()
        self._earlier = earlier
        self._decoded: dict[int, _Decoded] | None = None

    @property
    def size_bytes(self) -> int:
        """The approximate size in memory."""
        parts = list((self._decoded or {}).values())
        decoded: int = sum(
            column.nbytes for part in parts for column in list(part.columns.values())
        )
        return self._versions.size_bytes + decoded

    def batches(
        self,
        columns: Sequence[ScanColumn],
        *,
        with_handle: bool = False,
        budget: Budget = DEFAULT_BUDGET,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows in bounded batches, with columns as in `EngineReader.scan`.

        Raises:
            SchemaOutdatedError: The schema history does not contain a row's definition.
        """
        names = [*[HANDLE] * with_handle, *(column_name(column.id) for column in columns)]
        needed = [*[HANDLE] * with_handle, *stored_names(columns)]

        def batch(stored: Stored, start: int, rows: int) -> pa.RecordBatch:
            chunk = {name: each.slice(start, rows) for name, each in stored.items()}
            system = [chunk[HANDLE]] if with_handle else []
            return batch_of(names, [*system, *project(chunk, columns, rows)], rows)

        where = f"table {self._physical_id}"
        for places, stored in self._stored(needed):
            yield from in_slices(len(places), budget, where, partial(batch, stored), _BATCH_ROWS)

    def use_tables(self, tables: PhysicalTables) -> bool:
        """Use newer tables; return False if rows may be decoded differently under them."""
        with self._mutex:
            current = self._tables.history
            if tables.history.events != current.events:
                return False
            if tables.history.end_ts > current.end_ts:
                self._tables = tables
            return True

    def with_more(self, chunks: Sequence[Versions], tables: PhysicalTables) -> "MemoryVersions":
        """Return the newest versions of these and of later ones."""
        merged = concat([self._versions, *chunks])
        places = newest_places(merged)
        earlier = None
        if self.use_tables(tables):
            origin = np.where(places < len(self._versions), places, -1)
            with self._mutex:
                decoded = {
                    i: _Decoded(d.table, d.places, dict(d.columns))
                    for i, d in (self._decoded or {}).items()
                }
            earlier = _Earlier(decoded, origin)
        return MemoryVersions(self._physical_id, merged.select(places), tables, earlier)

    def _stored(self, names: Collection[str]) -> list[tuple[Positions, dict[str, pa.Array]]]:
        """Return, for each definition, the places of its rows and its columns of those names."""
        with self._mutex:
            if self._decoded is None:
                self._decoded = self._by_definition()
            for part in self._decoded.values():
                if missing := [name for name in names if name not in part.columns]:
                    part.columns.update(self._decode(part, missing))
            return [
                (part.places, {name: part.columns[name] for name in names if name in part.columns})
                for part in self._decoded.values()
            ]

    def _by_definition(self) -> dict[int, _Decoded]:
        puts = np.flatnonzero(self._is_put)
        by_table: dict[int, tuple[TableInfo, list[Positions]]] = {}
        commit_ts = self._versions.commit_ts[puts]
        for table, places in self._tables.definitions(self._physical_id, commit_ts):
            # A definition may be valid for several intervals.
            by_table.setdefault(id(table), (table, []))[1].append(puts[places])
        return {
            i: _Decoded(table, np.sort(np.concatenate(places)), {})
            for i, (table, places) in by_table.items()
        }

    def _decode(self, part: _Decoded, names: Sequence[str]) -> dict[str, pa.Array]:
        """Return columns of rows under one definition, reusing those decoded by an earlier read."""
        before = None
        if self._earlier is not None:
            before = self._earlier.decoded.get(id(part.table))
        if before is None or self._earlier is None:
            return self._decode_rows(part.table, part.places, names)
        reused = {name: before.columns.pop(name) for name in names if name in before.columns}
        others = [name for name in names if name not in reused]
        columns = self._decode_rows(part.table, part.places, others) if others else {}
        if reused:
            origin = self._earlier.origin[part.places]
            is_new = origin < 0
            new = self._decode_rows(part.table, part.places[is_new], list(reused))
            at = np.empty(len(origin), np.int64)
            at[~is_new] = np.searchsorted(before.places, origin[~is_new])
            at[is_new] = len(before.places) + np.arange(np.count_nonzero(is_new))
            places = pa.array(at)
            for name, column in reused.items():
                columns[name] = joined([column, new[name]]).take(places)
        return columns

    def _decode_rows(
        self, table: TableInfo, places: Positions, names: Sequence[str]
    ) -> dict[str, pa.Array]:
        versions = self._versions
        chosen = versions if len(places) == len(versions) else versions.select(places)
        needed = {absence_name(name) if is_absence(name) else name for name in names}
        batch = decode_versions(self._physical_id, chosen, table, needed)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        # A column that is present in all rows has no absence column.
        present = pa.repeat(pa.scalar(False), batch.num_rows)
        columns |= {n: present for n in names if n not in columns and absence_name(n) in columns}
        return {name: columns[name] for name in names if name in columns}


@dataclass(frozen=True, slots=True)
class _Cached:
    """The newest versions in some chunks; None if the chunks do not contain the table."""

    chunks: Sequence[Versions]
    newest: MemoryVersions | None


class NewestRows:
    """A cache of the newest versions in memory of each table's rows. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._cached: dict[PhysicalTableID, _Cached] = {}

    def at(
        self,
        physical_id: PhysicalTableID,
        chunks: Sequence[Versions],
        resolved: Sequence[Versions],
        snapshot_ts: TimeStamp,
        tables: PhysicalTables,
    ) -> MemoryVersions | None:
        """Return the newest versions of a table at a timestamp; None if there are none in memory.

        Args:
            chunks: All versions in memory, of all tables.
            resolved: Rows of the table that are not in the chunks: committed, but still locked.
        """
        newest, count = self._extended(physical_id, chunks, snapshot_ts, tables)
        if newest is not None and newest.newest_ts > snapshot_ts:
            newest, count = None, 0
        rest = [_up_to(chunk, snapshot_ts) for chunk in of_table(chunks[count:], physical_id)]
        more = [chunk for chunk in (*rest, *resolved) if len(chunk)]
        return _merged(physical_id, newest, more, tables)

    def forget(self) -> None:
        """Drop all cached versions, because the chunks have been published."""
        with self._mutex:
            self._cached.clear()

    def _extended(
        self,
        physical_id: PhysicalTableID,
        chunks: Sequence[Versions],
        snapshot_ts: TimeStamp,
        tables: PhysicalTables,
    ) -> tuple[MemoryVersions | None, int]:
        """Extend the cached versions by the next chunks that lie at or below a timestamp.

        Returns the newest versions in the first chunks, and the number of those chunks.
        """
        with self._mutex:
            cached = self._cached.get(physical_id)
        if cached is None or not _is_same(cached.chunks, chunks[: len(cached.chunks)]):
            cached = _Cached((), None)
        before = count = len(cached.chunks)
        while count < len(chunks) and chunks[count].newest_ts <= snapshot_ts:
            count += 1
        added = of_table(chunks[before:count], physical_id)
        newest = _merged(physical_id, cached.newest, added, tables)
        with self._mutex:
            self._cached[physical_id] = _Cached(chunks[:count], newest)
        return newest, count


def _is_same(cached: Sequence[Versions], chunks: Sequence[Versions]) -> bool:
    return len(cached) == len(chunks) and all(a is b for a, b in zip(cached, chunks, strict=True))


def _merged(
    physical_id: PhysicalTableID,
    before: MemoryVersions | None,
    more: Sequence[Versions],
    tables: PhysicalTables,
) -> MemoryVersions | None:
    """Merge more versions into the newest ones; None if there are none."""
    if before is not None:
        return before.with_more(more, tables) if more or not before.use_tables(tables) else before
    if not more:
        return None
    versions = concat(more)
    return MemoryVersions(physical_id, versions.select(newest_places(versions)), tables)


def _up_to(versions: Versions, snapshot_ts: TimeStamp) -> Versions:
    is_reached = versions.commit_ts <= np.uint64(snapshot_ts)
    return versions if is_reached.all() else versions.select(np.flatnonzero(is_reached))


def of_table(chunks: Sequence[Versions], physical_id: PhysicalTableID) -> list[Versions]:
    """Return the versions of one table."""
    selected = []
    for chunk in chunks:
        rows = np.flatnonzero(chunk.table_id == physical_id)
        if len(rows):
            selected.append(chunk if len(rows) == len(chunk) else chunk.select(rows))
    return selected
