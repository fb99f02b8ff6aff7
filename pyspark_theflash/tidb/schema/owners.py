"""To which tables a physical table has belonged, and what that made of its columns.

Rows belong to a physical table. EXCHANGE PARTITION gives it to another table, whose columns have
the same ids and may have come another way:

    physical table 108     table 104: a id 2, MODIFY COLUMN made a id 5 of it ─┬─ partition of 110
    physical table 111     partition of 110: ADD COLUMN a id 5 DEFAULT 'x' ────┴─ table 111

A row of 108 that has no column 5 had column 2, although table 110 never had one. So the past of a
column is looked up by physical table, owner after owner:

    MODIFY COLUMN with reorganisation rewrites the rows of the table that it is done to. Such a row
    has the new column, and all others, those included that it had left out.
    What a row leaves out otherwise is what the table says that owns it now (origin defaults).
"""

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from pyspark_theflash.base.types import MAX_TS, ColumnID, PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.lineage import moves
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A MODIFY COLUMN that has rewritten the rows which did not have its column `made` yet.

    `column` is another one as it was then. One that TiDB gave up may have rewritten some rows.
    """

    made: ColumnInfo
    column: ColumnInfo
    is_finished: bool


@dataclass(frozen=True, slots=True)
class Past:
    """What the tables that a physical table belonged to were, in order; at least one.

    `has_base`: the physical table has rows of which only values are known, and not what they left
    out.
    """

    tables: tuple[TableInfo, ...]
    has_base: bool = False
    moved_from: tuple["Past", ...] = ()
    """Those of partitions whose rows REORGANIZE PARTITION has moved here, where others had them."""

    def source(self, column_id: ColumnID) -> tuple[ColumnInfo, "Past"] | None:
        """The column that MODIFY COLUMN made one from, as it was last, and the past until then.

        It has the session that did so, where that is known, and whether it did so before DDL wrote
        its values into rows (`rows_untouched`). None where it was made from none.
        """
        found, session = None, None
        for at in range(self._since(column_id), len(self.tables)):
            column = self.tables[at].column_by_id[column_id]
            if column.changing_offset is not None:
                columns, offset = self.tables[at].columns, column.changing_offset
                found = next(c for c in columns if c.offset == offset), at
            elif column.session is not None:
                session = column.session
        if found is None:
            return None
        source, at = found
        untouched = self._rows_untouched(source.id, column_id)
        told = replace(source, session=session, rows_untouched=untouched)
        return told, replace(self, tables=self.tables[: at + 1])

    def rewrites(self, column_id: ColumnID) -> Iterator[Rewrite]:
        """What may have made rows hold a column that they had left out, in order."""
        last: dict[ColumnID, tuple[int, ColumnInfo]] = {}
        for at in range(self._since(column_id), len(self.tables)):
            last |= {c.id: (at, c) for c in self.tables[at].changing_columns}
        for at, made in last.values():
            column = self.tables[at].column_by_id[column_id]
            if column.changing_offset is None and at + 1 < len(self.tables):
                yield Rewrite(made, column, self.is_finished(made.id))

    def is_finished(self, column_id: ColumnID, end: int | None = None) -> bool:
        """Whether a column was ever public, among the first `end` tables."""
        columns = (table.column_by_id.get(column_id) for table in self.tables[:end])
        return any(column.is_public for column in columns if column is not None)

    def first(self, column_id: ColumnID) -> ColumnInfo | None:
        """The column as the first owner had it; None where that had none."""
        return None if self._since(column_id) else self.tables[0].column_by_id[column_id]

    def may_leave_out_null(self, info: ColumnInfo) -> bool:
        """Whether rows may lack a column that was NULL, which is another value now.

        TiDB leaves such a NULL out of a row where a column has no default.
        """
        pasts = (self, *self.moved_from)
        defined = (t.column_by_id.get(info.id) for past in pasts for t in past.tables)
        has_default = info.origin_default is not None
        return has_default and any(c is not None and c.origin_default is None for c in defined)

    def is_reused(self, info: ColumnInfo) -> bool:
        """Whether rows may hold another column under the id, which a former owner had dropped.

        TiDB then shows the other column's bytes. Where both are of one type, these are its values.
        """
        end = self._since(info.id)
        had = [at for at in range(end) if info.id in self.tables[at].column_by_id]
        if not had:
            return False
        former = self.tables[had[-1]].column_by_id[info.id]
        was_rewritten = any(table.changing_columns for table in self.tables[had[-1] : end])
        is_alike = _stored_type(former) == _stored_type(info)
        return was_rewritten or not (is_alike and self.is_finished(info.id, end))

    @property
    def is_exchanged(self) -> bool:
        """Whether rows were rewritten after the first owner had given them away."""
        first = self.tables[0].id
        given = next((n for n, table in enumerate(self.tables) if table.id != first), None)
        return given is not None and any(t.changing_columns for t in self.tables[given:])

    def _rows_untouched(self, source_id: ColumnID, column_id: ColumnID) -> bool:
        """Whether MODIFY COLUMN met rows as they were written.

        False as well where the first state known has the column already.
        """
        states = [t for t in self.tables if not {source_id, column_id}.isdisjoint(t.column_by_id)]
        changing = {c.id for t in states for c in t.changing_columns}
        return changing <= {column_id} and states[0] is not self.tables[0]

    def _since(self, column_id: ColumnID) -> int:
        """From which of the tables on each has the column."""
        at = len(self.tables)
        while at and column_id in self.tables[at - 1].column_by_id:
            at -= 1
        return at


def _stored_type(info: ColumnInfo) -> FieldType:
    """The type without the flags that say nothing of how values are stored."""
    return replace(info.type, flag=info.type.flag & ColumnFlag.UNSIGNED)


class Owners:
    """The pasts of the physical tables of a history."""

    def __init__(self, history: SchemaHistory) -> None:
        self._history: Final = history

    def past(self, table: TableInfo, physical_id: PhysicalTableID, ts: TimeStamp = MAX_TS) -> Past:
        """What a physical table was until `ts`, when it was one of `table`'s.

        Only definitions of tables that it belonged to are read.
        """
        events = self._before(table.id, physical_id, ts)
        tables = tuple(t for e in events if (t := e.table) is not None)
        sources = [
            self.past(table, source, TimeStamp(move.ts - 1))
            for move in moves(self._history.events_of(table.id))
            if physical_id in move.to_ids and move.ts <= ts
            for source in sorted(move.from_ids)
        ]
        moved = tuple(s for s in sources if s.moved_from or any(t.id != table.id for t in s.tables))
        return Past(tables or (table,), moved_from=moved)

    def past_of(self, table: TableInfo, ts: TimeStamp) -> Past:
        """What a table was until `ts`: the past of those physical tables that are its own."""
        events = self._history.events_of(table.id)
        end = bisect.bisect_right(events, ts, key=lambda e: e.ts)
        tables = tuple(t for e in events[:end] if (t := e.table) is not None)
        return Past(tables or (table,))

    @cached_property
    def last(self) -> Mapping[PhysicalTableID, TableEvent]:
        """The last definition of a table that each physical table has belonged to."""
        found: dict[PhysicalTableID, TableEvent] = {}
        for event in self._history.events:
            found.update(dict.fromkeys(event.stored_ids, event))
        return found

    def _before(
        self, table_id: TableID, physical_id: PhysicalTableID, ts: TimeStamp
    ) -> list[TableEvent]:
        """The events that define its owners, in order, the last of them of a table at `ts`."""
        events = self._history.events_of(table_id)
        end = bisect.bisect_right(events, ts, key=lambda e: e.ts)
        begin = end
        while begin and events[begin - 1].stores(physical_id):
            begin -= 1
        owned = list(events[begin:end])
        if not owned or owned[0].ts <= self._history.start_ts:
            return owned
        before = TimeStamp(owned[0].ts - 1)
        for other in self._history.events_at(owned[0].ts):
            if other.table_id != table_id and (
                earlier := self._before(other.table_id, physical_id, before)
            ):
                return [*earlier, *owned]
        defined = [event for event in events[:begin] if event.name is not None]
        if defined and defined[-1].stores(physical_id):
            # It was recovered, or renamed into another database.
            return [*self._before(table_id, physical_id, defined[-1].ts), *owned]
        # REORGANIZE PARTITION may have filled it.
        return [*defined, *owned]
