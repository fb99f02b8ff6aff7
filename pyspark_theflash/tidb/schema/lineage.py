"""What DDL does to rows that are already there, told by the TableInfos before and after.

A binlog carries no rows for it: TiDB rewrites them below the binlog.

    MODIFY COLUMN with reorganisation    a new column id takes the old one's place, its values are
                                         the old ones converted
    REORGANIZE PARTITION                 new partition ids take the place of old ones, their rows
                                         are the old ones'

Columns
    While TiDB fills the new column it stands hidden at the table's end and names the offset of the
    one it will replace; what that means for older rows, `tidb.schema.owners` says:

        a id 2, public                                       `_Col$_a_0` id 24, hidden, offset of a
        a id 24, public

Partitions
    In between, the new ones are `adding` and the old ones `dropping`, and what is written to one
    kind is written to the other as well. DROP, TRUNCATE and ADD PARTITION have but one of the two,
    and move nothing. EXCHANGE swaps ids: rows stay where they are.
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
    """The columns that MODIFY COLUMN has finished from one state of a table to the next."""
    changing = {c.id for c in before.columns if c.changing_offset is not None}
    return [c.id for c in after.columns if c.id in changing and c.is_public]


@dataclass(frozen=True, slots=True)
class DoubleWrites:
    """Rows that go to `twice` partitions of `first` go to a partition of `second` as well."""

    first: TableInfo
    second: TableInfo
    twice: frozenset[PhysicalTableID]
    is_delete_only: bool


def double_writes(table: TableInfo) -> DoubleWrites | None:
    """What a running REORGANIZE PARTITION makes TiDB write twice under `table`.

    None where it writes nothing twice, and where rows have a clustered key: what it writes then is
    the same row again.

    Raises:
        UnsupportedError: rows have no clustered key, and how far it is cannot be told any more.
    """
    partition = table.partition
    if partition is None or not table.has_rowid:
        return None
    if partition.ddl_state == STATE_LOST:
        what = "writing while REORGANIZE PARTITION ran, in a state of it that was not read in time,"
        raise UnsupportedError(what, table.full_name)
    if not (partition.adding and partition.dropping):
        return None
    readable = frozenset(table.physical_ids)
    # At first the old partitions are read, in the end the new ones.
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
    """At `ts` the rows of `from_ids` became rows of `after`'s partitions `to_ids`.

    TiDB copies them after `since`, one batch after the other.
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
    """What the events of one table move, in order. The only state of a table is not read."""
    if len(events) < 2:
        return []
    defined = [(event.ts, event.table) for event in events if event.table is not None]
    found, since = [], TimeStamp(0)
    for (began, before), (ts, after) in pairwise(defined):
        # Where the state in which it begins is not known, it may have begun in the one before.
        copied_since = since if _is_copying(before) else began
        if (move := _move(copied_since, ts, before, after)) is not None:
            found.append(move)
        if not _is_copying(before):
            since = ts
    return found


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
    """What DDL did to rows, over a whole history."""

    def __init__(self, history: SchemaHistory) -> None:
        by_table: dict[TableID, list[TableEvent]] = defaultdict(list)
        for event in history.events:
            by_table[event.table_id].append(event)
        every = [m for events in by_table.values() for m in moves(events)]
        self.moves: Final = tuple(sorted(every, key=lambda m: (m.ts, m.table_id)))
        self._moves_of: Mapping[TableID, list[Move]] = defaultdict(list)
        for move in self.moves:
            self._moves_of[move.table_id].append(move)

    def placement(self, table: TableInfo, commit_ts: TimeStamp) -> TableInfo:
        """Whose partitions hold what commits at `commit_ts` and was written under `table`.

        A transaction that began before partitions were reorganised and committed after it was
        written to the old ones and the new ones, which `double_writes` tells apart where it must.
        """
        if table.has_rowid:
            return table
        for move in self._moves_of.get(table.id, ()):
            if move.ts <= commit_ts and move.from_ids & frozenset(table.physical_ids):
                table = move.after
        return table
