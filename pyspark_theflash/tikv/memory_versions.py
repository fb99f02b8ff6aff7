"""The newest versions in memory of each table's rows, decoded once for all reads.

    parts of the cache    a ── b ── c ── d        each some commits, in the order they came
    what a read had       ───────────┤            the newest version of each row up to c, and the
                                     │            columns that were asked for
    the next read                    └── d        is that with d laid over it; d is decoded

Parts never change. Once the engine has some of them, what is left is looked at anew.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine.api import HandleSet
from pyspark_theflash.storage.mvcc.project import (
    ScanColumn,
    batch_of,
    project,
    stored_names,
)
from pyspark_theflash.storage.mvcc.version import HANDLE, Op, absence_name, column_name, is_absence
from pyspark_theflash.tidb.codec.array import joined
from pyspark_theflash.tidb.codec.reader import Positions
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tikv.rows import decode_versions, newest_places
from pyspark_theflash.tikv.tables import PhysicalTables
from pyspark_theflash.tikv.versions import Versions, concat

_BATCH_ROWS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Rows that were written under one definition: where they are, and their columns so far."""

    table: TableInfo
    places: Positions
    columns: dict[str, pa.Array]


@dataclass(frozen=True, slots=True)
class _Earlier:
    """The rows decoded for an earlier read: `origin` of each version there, -1 if it is new."""

    decoded: dict[int, _Decoded]
    origin: Positions


class MemoryVersions:
    """The newest version of each row, deletes among them; used by many threads."""

    def __init__(
        self,
        physical_id: PhysicalTableID,
        versions: Versions,
        tables: PhysicalTables,
        earlier: _Earlier | None = None,
    ) -> None:
        """`versions`: at least one, sorted by handle, no two of a row."""
        self._physical_id, self._versions, self._tables = physical_id, versions, tables
        self.handles: Final = HandleSet(versions.handles)
        """The handles of all rows that memory decides about."""
        self.newest_ts: Final = versions.newest_ts
        self._is_put = versions.op == Op.PUT
        self.rows: Final[int] = int(np.count_nonzero(self._is_put))
        """How many of the versions are rows."""
        self._mutex = threading.Lock()
        self._earlier = earlier
        self._decoded: dict[int, _Decoded] | None = None

    @property
    def size_bytes(self) -> int:
        """The size in memory, about."""
        parts = list((self._decoded or {}).values())
        decoded: int = sum(
            column.nbytes for part in parts for column in list(part.columns.values())
        )
        return self._versions.size_bytes + decoded

    def batches(
        self, columns: Sequence[ScanColumn], *, with_handle: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """The rows, in bounded batches, with columns as `EngineReader.scan` gives them.

        Raises:
            SchemaOutdatedError: the schema history lacks what a row needs.
        """
        names = [*[HANDLE] * with_handle, *(column_name(column.id) for column in columns)]
        wanted = [*[HANDLE] * with_handle, *stored_names(columns)]
        for places, found in self._stored(wanted):
            for start in range(0, len(places), _BATCH_ROWS):
                part = {name: each.slice(start, _BATCH_ROWS) for name, each in found.items()}
                rows = min(_BATCH_ROWS, len(places) - start)
                system = [part[HANDLE]] if with_handle else []
                arrays = [*system, *project(part, columns, rows)]
                yield batch_of(names, arrays, rows)

    def take_up(self, tables: PhysicalTables) -> bool:
        """Go by these tables from now on; False: rows are not decoded alike under them."""
        with self._mutex:
            mine = self._tables.history
            if tables.history.events != mine.events:
                return False
            if tables.history.end_ts > mine.end_ts:
                self._tables = tables
            return True

    def with_more(self, parts: Sequence[Versions], tables: PhysicalTables) -> "MemoryVersions":
        """Versions that came later laid over these."""
        whole = concat([self._versions, *parts])
        places = newest_places(whole)
        earlier = None
        if self.take_up(tables):
            origin = np.where(places < len(self._versions), places, -1)
            with self._mutex:
                known = self._decoded or {}
                kept = {i: _Decoded(d.table, d.places, dict(d.columns)) for i, d in known.items()}
            earlier = _Earlier(kept, origin)
        return MemoryVersions(self._physical_id, whole.select(places), tables, earlier)

    def _stored(self, wanted: Collection[str]) -> list[tuple[Positions, dict[str, pa.Array]]]:
        """For each definition the places of its rows, and those of their columns that it has."""
        with self._mutex:
            if self._decoded is None:
                self._decoded = self._by_definition()
            for part in self._decoded.values():
                if lacking := [name for name in wanted if name not in part.columns]:
                    part.columns.update(self._decode(part, lacking))
            return [
                (part.places, {name: part.columns[name] for name in wanted if name in part.columns})
                for part in self._decoded.values()
            ]

    def _by_definition(self) -> dict[int, _Decoded]:
        puts = np.flatnonzero(self._is_put)
        found: dict[int, tuple[TableInfo, list[Positions]]] = {}
        commit_ts = self._versions.commit_ts[puts]
        for table, places in self._tables.definitions(self._physical_id, commit_ts):
            # A definition may be in force more than once.
            found.setdefault(id(table), (table, []))[1].append(puts[places])
        return {
            i: _Decoded(table, np.sort(np.concatenate(places)), {})
            for i, (table, places) in found.items()
        }

    def _decode(self, part: _Decoded, names: Sequence[str]) -> dict[str, pa.Array]:
        """Columns of rows under one definition, those taken over that were decoded before."""
        before = None
        if self._earlier is not None:
            before = self._earlier.decoded.get(id(part.table))
        if before is None or self._earlier is None:
            return self._decode_rows(part.table, part.places, names)
        taken = {name: before.columns.pop(name) for name in names if name in before.columns}
        others = [name for name in names if name not in taken]
        found = self._decode_rows(part.table, part.places, others) if others else {}
        if taken:
            origin = self._earlier.origin[part.places]
            is_new = origin < 0
            new = self._decode_rows(part.table, part.places[is_new], list(taken))
            at = np.empty(len(origin), np.int64)
            at[~is_new] = np.searchsorted(before.places, origin[~is_new])
            at[is_new] = len(before.places) + np.arange(np.count_nonzero(is_new))
            places = pa.array(at)
            for name, column in taken.items():
                found[name] = joined([column, new[name]]).take(places)
        return found

    def _decode_rows(
        self, table: TableInfo, places: Positions, names: Sequence[str]
    ) -> dict[str, pa.Array]:
        versions = self._versions
        chosen = versions if len(places) == len(versions) else versions.select(places)
        wanted = {absence_name(name) if is_absence(name) else name for name in names}
        batch = decode_versions(self._physical_id, chosen, table, wanted)
        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        # A column that all rows hold comes without its absence.
        held = pa.repeat(pa.scalar(False), batch.num_rows)
        found |= {n: held for n in names if n not in found and absence_name(n) in found}
        return {name: found[name] for name in names if name in found}


@dataclass(frozen=True, slots=True)
class _Known:
    """The newest versions in some parts; None: nothing of the table is in them."""

    parts: Sequence[Versions]
    newest: MemoryVersions | None


class NewestRows:
    """The newest rows of each table; used by many threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._known: dict[PhysicalTableID, _Known] = {}

    def at(
        self,
        physical_id: PhysicalTableID,
        parts: Sequence[Versions],
        resolved: Sequence[Versions],
        snapshot_ts: TimeStamp,
        tables: PhysicalTables,
    ) -> MemoryVersions | None:
        """Return the newest rows at a timestamp; None where nothing of the table is there.

        Args:
            parts: all that is in memory, of all tables.
            resolved: rows of this one that are in no part: committed, and still locked.
        """
        whole, count = self._whole(physical_id, parts, snapshot_ts, tables)
        if whole is not None and whole.newest_ts > snapshot_ts:
            whole, count = None, 0
        rest = [_up_to(part, snapshot_ts) for part in of_table(parts[count:], physical_id)]
        more = [part for part in (*rest, *resolved) if len(part)]
        return _laid_over(physical_id, whole, more, tables)

    def forget(self) -> None:
        """Forget all, for the parts are gone."""
        with self._mutex:
            self._known.clear()

    def _whole(
        self,
        physical_id: PhysicalTableID,
        parts: Sequence[Versions],
        snapshot_ts: TimeStamp,
        tables: PhysicalTables,
    ) -> tuple[MemoryVersions | None, int]:
        """Return the rows of the first parts, at least of all reached in whole, and their count."""
        with self._mutex:
            known = self._known.get(physical_id)
        if known is None or not _is_same(known.parts, parts[: len(known.parts)]):
            known = _Known((), None)
        before = count = len(known.parts)
        while count < len(parts) and parts[count].newest_ts <= snapshot_ts:
            count += 1
        newest = _laid_over(
            physical_id, known.newest, of_table(parts[before:count], physical_id), tables
        )
        with self._mutex:
            self._known[physical_id] = _Known(parts[:count], newest)
        return newest, count


def _is_same(known: Sequence[Versions], parts: Sequence[Versions]) -> bool:
    return len(known) == len(parts) and all(a is b for a, b in zip(known, parts, strict=True))


def _laid_over(
    physical_id: PhysicalTableID,
    before: MemoryVersions | None,
    more: Sequence[Versions],
    tables: PhysicalTables,
) -> MemoryVersions | None:
    """Return the newest rows with more versions laid over them; None where there are none."""
    if before is not None:
        return before.with_more(more, tables) if more or not before.take_up(tables) else before
    if not more:
        return None
    versions = concat(more)
    return MemoryVersions(physical_id, versions.select(newest_places(versions)), tables)


def _up_to(versions: Versions, snapshot_ts: TimeStamp) -> Versions:
    is_reached = versions.commit_ts <= np.uint64(snapshot_ts)
    return versions if is_reached.all() else versions.select(np.flatnonzero(is_reached))


def of_table(parts: Sequence[Versions], physical_id: PhysicalTableID) -> list[Versions]:
    """The versions of one table."""
    found = []
    for part in parts:
        rows = np.flatnonzero(part.table_id == physical_id)
        if len(rows):
            found.append(part if len(rows) == len(part) else part.select(rows))
    return found
