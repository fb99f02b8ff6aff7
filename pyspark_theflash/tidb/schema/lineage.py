"""Effects of DDL on existing rows, derived from the TableInfos before and after.

TiDB rewrites rows for DDL without a binlog, so these changes must be derived:

    MODIFY COLUMN with reorganisation    a new column id replaces the old one; its values are the
                                         old ones, converted
    REORGANIZE PARTITION                 new partition ids replace old ones and hold their rows

Columns
    While TiDB fills the new column, it is hidden at the table's end and records the offset of the
    column it will replace. `tidb.schema.owners` derives from this the values of older rows:

        during    a id 2, public      `_Col$_a_0` id 24, hidden, offset of a
        after     a id 24, public

Partitions
    Meanwhile, the new partitions are `adding` and the old ones `dropping`; writes to either set
    also go to the other. DROP, TRUNCATE and ADD PARTITION have only one of the two sets and move
    no rows. EXCHANGE swaps ids and moves no rows.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import (
    STATE_DELETE_ONLY,
    STATE_LOST,
    STATE_WRITE_REORGANIZATION,
    PartitionDefinition,
    TableInfo,
)


def changed_columns(before: TableInfo, after: TableInfo) -> Sequence[ColumnID]:
    """Return the columns that MODIFY COLUMN completed between two states of a table."""
    changing = {c.id for c in before.columns if c.changing_offset is not None}
    return [c.id for c in after.columns if c.id in changing and c.is_public]


@dataclass(frozen=True, slots=True)
class DoubleWrites:
    """Rows written to the `twice` partitions of `first` also go to a partition of `second`."""

    first: TableInfo
    second: TableInfo
    twice: frozenset[PhysicalTableID]
    is_delete_only: bool


def double_writes(table: TableInfo) -> DoubleWrites | None:
    """Return the double writes of a running REORGANIZE PARTITION under `table`.

    None if there are none, or if rows have a clustered key: the second write is then the same row.

    Raises:
        UnsupportedError: Rows have no clustered key, and the progress of the DDL job is unknown.
    """
    partition = table.partition
    if partition is None or not table.has_rowid:
        return None
    if partition.ddl_state == STATE_LOST:
        what = "writing while REORGANIZE PARTITION ran, in a state that was not read in time,"
        raise UnsupportedError(what, table.full_name)
    if not (partition.adding and partition.dropping):
        return None
    readable = frozenset(table.physical_ids)
    # Reads use the old partitions at first, the new ones at the end.
    is_first = not readable.isdisjoint(_ids(partition.dropping))
    twice, others = partition.dropping, partition.adding
    if not is_first:
        twice, others = others, twice
    plain = replace(partition, adding=(), dropping=())
    return DoubleWrites(
        replace(table, partition=plain),
        replace(table, partition=replace(plain, definitions=others)),
        _ids(twice) & readable,
        is_first and partition.ddl_state == STATE_DELETE_ONLY,
    )


@dataclass(frozen=True, slots=True)
class Move:
    """Rows of the partitions `from_ids` moved to the partitions `to_ids` of `after` at `ts`.

    TiDB copied them in batches after `since`.
    """

    since: TimeStamp
    ts: TimeStamp
    before: TableInfo
    after: TableInfo
    from_ids: frozenset[PhysicalTableID]
    to_ids: frozenset[PhysicalTableID]

    @property
    def table_id(self) -> TableID:
        return self.after.id


def moves(events: Sequence[TableEvent]) -> list[Move]:
    """Return the moves among the events of one table, in order. Does not parse a single event."""
    if len(events) < 2:
        return []
    defined = [(event.ts, event.table) for event in events if event.table is not None]
    result, since = [], TimeStamp(0)
    for (began, before), (ts, after) in pairwise(defined):
        # If the first state of the copy is unknown, it may have begun in the previous state.
        copied_since = since if _is_copying(before) else began
        if (move := _move(copied_since, ts, before, after)) is not None:
            result.append(move)
        if not _is_copying(before):
            since = ts
    return result


def filled_by(events: Sequence[TableEvent]) -> dict[PhysicalTableID, Move]:
    """Return the moves among the events of one table by the partitions that they filled.

    A search for the origins of rows must visit a partition once: after n moves of two
    partitions into two, rows may have come from the first ones in 2^n ways.
    """
    return {physical_id: move for move in moves(events) for physical_id in move.to_ids}


def _is_copying(table: TableInfo) -> bool:
    partition = table.partition
    if partition is None:
        return False
    return partition.ddl_state == STATE_LOST or partition.ddl_state >= STATE_WRITE_REORGANIZATION


def _move(since: TimeStamp, ts: TimeStamp, before: TableInfo, after: TableInfo) -> Move | None:
    if before.partition is None or after.partition is None:
        return None
    old, new = frozenset(before.physical_ids), frozenset(after.physical_ids)
    filled = (new - old) & _ids(before.partition.adding)
    emptied = (old - new) & _ids(before.partition.dropping)
    return Move(since, ts, before, after, emptied, filled) if filled and emptied else None


def _ids(definitions: Sequence[PartitionDefinition]) -> frozenset[PhysicalTableID]:
    return frozenset(definition.id for definition in definitions)


class Lineage:
    """Partition moves of a whole history."""

    def __init__(self, history: SchemaHistory) -> None:
        every = [m for table_id in history.table_ids for m in moves(history.events_of(table_id))]
        self.moves: Final = tuple(sorted(every, key=lambda m: (m.ts, m.table_id)))
        self._moves_of: Mapping[TableID, list[Move]] = defaultdict(list)
        for move in self.moves:
            self._moves_of[move.table_id].append(move)

    def placement(self, table: TableInfo, commit_ts: TimeStamp) -> TableInfo:
        """Return the definition whose partitions hold rows of `table` committed at `commit_ts`.

        A transaction that began before a reorganisation and committed after it wrote to both the
        old and the new partitions; `double_writes` separates the two where necessary.
        """
        if table.has_rowid:
            return table
        for move in self._moves_of.get(table.id, ()):
            if move.ts <= commit_ts and move.from_ids & frozenset(table.physical_ids):
                table = move.after
        return table
