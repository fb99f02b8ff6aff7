"""Map physical tables to table definitions, by commit_ts.

A partition belongs to a table from the start of the DDL that creates it, and to another table after
EXCHANGE PARTITION. So the definition under which a row is decoded depends on its commit_ts:

    physical table 108     table 104 ────────┬ table 108 (exchanged) ────────
                           104's columns     │ columns of 108 as of each commit
"""

import bisect
import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.cluster.key_range import EncodedKeyRange, record_range
from pyspark_theflash.tidb.codec.number import decode_int
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo

SchemaAt = Callable[[TimeStamp], "PhysicalTables"]
"""Returns tables of a history that extends to a timestamp, or raises `SchemaOutdatedError`."""


class PhysicalTables:
    """The replicated tables of a schema history. Immutable."""

    def __init__(self, history: SchemaHistory) -> None:
        self.history: Final = history
        self._owners: dict[PhysicalTableID, list[tuple[TimeStamp, TableID]]] = defaultdict(list)
        changes: dict[TableID, list[TimeStamp]] = defaultdict(list)
        for event in history.events:
            changes[event.table_id].append(event.ts)
            if event.name is not None:
                for physical_id in event.stored_ids:
                    owners = self._owners[physical_id]
                    if not owners or owners[-1][1] != event.table_id:
                        owners.append((event.ts, event.table_id))
        self._changes = changes
        self._unlimited_tables: dict[TableID, TableInfo] = {}
        self._ids = sorted(self._owners)

    def continued(self, history: SchemaHistory) -> "PhysicalTables":
        """Return the tables of a longer history."""
        if history.events is not self.history.events:
            return PhysicalTables(history)
        longer = copy.copy(self)
        longer.__dict__["history"] = history
        return longer

    def has(self, physical_id: PhysicalTableID) -> bool:
        """Return whether a physical table is replicated."""
        return physical_id in self._owners

    def owner_before(self, physical_id: PhysicalTableID, ts: TimeStamp) -> TableID | None:
        """Return the table that a physical table belonged to before a timestamp, if any."""
        owners = self._owners.get(physical_id, ())
        return next((table_id for begin, table_id in reversed(owners) if begin < ts), None)

    def is_common(self, physical_id: PhysicalTableID) -> bool:
        """Return whether a physical table has common handles, which never changes."""
        _, table_id = self._owners[physical_id][0]
        first = self._changes[table_id][0]
        return self.history.table_at_commit(table_id, first).is_common_handle

    def within(self, keys: EncodedKeyRange) -> Iterator[PhysicalTableID]:
        """Yield the physical tables whose record keys intersect a range."""
        low = bisect.bisect_left(self._ids, _table_id(keys.start, 0))
        for physical_id in self._ids[low:]:
            if keys.end and physical_id > _table_id(keys.end, _MAX_ID):
                return
            if keys.within(record_range(physical_id)) is not None:
                yield physical_id

    def definitions(
        self, physical_id: PhysicalTableID, commit_ts: npt.NDArray[np.uint64]
    ) -> Iterator[tuple[TableInfo, npt.NDArray[np.int64]]]:
        """Yield the definitions of a table at commits, each with the commits' positions, by time.

        Raises:
            SchemaOutdatedError: The history ends before one of the commits.
        """
        if len(commit_ts) and (newest := int(commit_ts.max())) > self.history.end_ts:
            raise SchemaOutdatedError("schema", newest)
        owners = self._owners[physical_id]
        cuts = {ts for ts, _ in owners[1:]}
        cuts.update(ts for _, table_id in owners for ts in self._changes[table_id])
        spans = np.searchsorted(np.array(sorted(cuts), np.uint64), commit_ts, side="right")
        for span in np.unique(spans):
            places = np.flatnonzero(spans == span)
            ts = TimeStamp(int(commit_ts[places[0]]))
            yield self._definition(physical_id, ts), places

    def _definition(self, physical_id: PhysicalTableID, ts: TimeStamp) -> TableInfo:
        owners = self._owners[physical_id]
        table_id = next((i for begin, i in reversed(owners) if begin <= ts), owners[0][1])
        # Rows may be committed shortly before their table's definition becomes public.
        first = self._changes[table_id][0]
        table = self.history.table_at_commit(table_id, max(ts, first))
        return self._unlimited(table) if ts < self.history.start_ts else table

    def _unlimited(self, table: TableInfo) -> TableInfo:
        """Return a definition for rows older than the history.

        They may contain columns dropped by any former owner, so no column id is too large.
        """
        unlimited = self._unlimited_tables.get(table.id)
        if unlimited is None:
            unlimited = self._unlimited_tables[table.id] = replace(table, max_column_id=_MAX_ID)
        return unlimited


_MAX_ID: Final = (1 << 63) - 1


def _table_id(key: bytes, default: int) -> int:
    """Return the table id in a memcomparable key; `default` if there is none."""
    raw = key[:8] + key[9:10]
    return decode_int(raw, 1) if raw[:1] == b"t" and len(raw) > 8 else default
