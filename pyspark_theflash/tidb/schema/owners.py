"""Tables that a physical table has belonged to, and the history of its columns.

Rows belong to a physical table. EXCHANGE PARTITION assigns it to another table, whose columns have
the same ids but may have a different history:

    physical table 108     table 104: a id 2, MODIFY COLUMN turns it into id 5 ─┬─ partition of 110
    physical table 111     partition of 110: ADD COLUMN a id 5 DEFAULT 'x' ──────┴─ table 111

A row of 108 without column 5 has column 2, although table 110 never had a column 2. So the history
of a column is looked up by physical table, from owner to owner:

    MODIFY COLUMN with reorganisation rewrites the rows of its table. A rewritten row has the new
    column and all other columns, including those that it omitted before.
    Other omitted columns have the origin default of the current owner.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from pyspark_theflash.base.types import MAX_TS, ColumnID, PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.lineage import Move, filled_by
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A MODIFY COLUMN that rewrote the rows without its new column `made`.

    `column` is another column at that time. An unfinished job may have rewritten only some rows.
    """

    made: ColumnInfo
    column: ColumnInfo
    is_finished: bool


@dataclass(frozen=True, slots=True)
class Past:
    """Definitions of the tables that a physical table belonged to, in order; at least one.

    `has_base`: the physical table has rows from a base, of which only the values are known and not
    which columns they omitted.
    """

    tables: tuple[TableInfo, ...]
    has_base: bool = False
    moved_from: tuple["Past", ...] = ()
    """Pasts of the partitions that other tables owned and that rows were moved from, by one
    REORGANIZE PARTITION after the other."""

    def source(self, column_id: ColumnID) -> tuple[ColumnInfo, "Past"] | None:
        """Return the column that MODIFY COLUMN created this one from, and the past until then.

        The column is as in its last state, with the session of the MODIFY COLUMN, if known, and
        `rows_untouched`. None if the column was not created from another one.
        """
        match, session = None, None
        for at in range(self._since(column_id), len(self.tables)):
            column = self.tables[at].column_by_id[column_id]
            if column.changing_offset is not None:
                columns, offset = self.tables[at].columns, column.changing_offset
                match = next(c for c in columns if c.offset == offset), at
            elif column.session is not None:
                session = column.session
        if match is None:
            return None
        source, at = match
        untouched = self._rows_untouched(source.id, column_id)
        described = replace(source, session=session, rows_untouched=untouched)
        return described, replace(self, tables=self.tables[: at + 1])

    def rewrites(self, column_id: ColumnID) -> Iterator[Rewrite]:
        """Yield the rewrites that may have stored a column that rows had omitted, in order."""
        last: dict[ColumnID, tuple[int, ColumnInfo]] = {}
        for at in range(self._since(column_id), len(self.tables)):
            last |= {c.id: (at, c) for c in self.tables[at].changing_columns}
        for at, made in last.values():
            column = self.tables[at].column_by_id[column_id]
            if column.changing_offset is None and at + 1 < len(self.tables):
                yield Rewrite(made, column, self.is_finished(made.id))

    def is_finished(self, column_id: ColumnID, end: int | None = None) -> bool:
        """Return whether a column was public in any of the first `end` tables."""
        columns = (table.column_by_id.get(column_id) for table in self.tables[:end])
        return any(column.is_public for column in columns if column is not None)

    def first(self, column_id: ColumnID) -> ColumnInfo | None:
        """Return the column in the first table, or None unless all tables have it."""
        return None if self._since(column_id) else self.tables[0].column_by_id[column_id]

    def may_leave_out_null(self, info: ColumnInfo) -> bool:
        """Return whether rows may omit a column that was NULL, but now has another default.

        TiDB omits NULL from a row if the column has no default.
        """
        pasts = (self, *self.moved_from)
        defined = (t.column_by_id.get(info.id) for past in pasts for t in past.tables)
        has_default = info.origin_default is not None
        return has_default and any(c is not None and c.origin_default is None for c in defined)

    def is_reused(self, info: ColumnInfo) -> bool:
        """Return whether rows may have a column of a former owner under the same id.

        TiDB reads such bytes as the current type; the values are the same if the types are.
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
        """Whether rows were rewritten after EXCHANGE PARTITION gave them to another table."""
        first = self.tables[0].id
        start = next((n for n, table in enumerate(self.tables) if table.id != first), None)
        return start is not None and any(t.changing_columns for t in self.tables[start:])

    def _rows_untouched(self, source_id: ColumnID, column_id: ColumnID) -> bool:
        """Return whether MODIFY COLUMN read rows as they were originally written.

        Also false if the first known state already has the column.
        """
        states = [t for t in self.tables if not {source_id, column_id}.isdisjoint(t.column_by_id)]
        changing = {c.id for t in states for c in t.changing_columns}
        return changing <= {column_id} and states[0] is not self.tables[0]

    def _since(self, column_id: ColumnID) -> int:
        """Return the index of the first table since which all tables have the column."""
        at = len(self.tables)
        while at and column_id in self.tables[at - 1].column_by_id:
            at -= 1
        return at


def _stored_type(info: ColumnInfo) -> FieldType:
    """Return the type without the flags that do not affect how values are stored."""
    return replace(info.type, flag=info.type.flag & ColumnFlag.UNSIGNED)


class Owners:
    """Pasts of the physical tables of a history."""

    def __init__(self, history: SchemaHistory) -> None:
        self._history: Final = history
        self._filled_by: Final = dict[TableID, dict[PhysicalTableID, Move]]()

    def past(self, table: TableInfo, physical_id: PhysicalTableID, ts: TimeStamp = MAX_TS) -> Past:
        """Return the past until `ts` of a physical table of `table`.

        Only definitions of tables that it belonged to are parsed.
        """
        tables = self._tables(table.id, physical_id, ts)
        return Past(tables or (table,), moved_from=tuple(self._moved_from(table, physical_id, ts)))

    def past_of(self, table: TableInfo, ts: TimeStamp) -> Past:
        """Return the past until `ts` of a table, regardless of physical tables."""
        events = self._history.events_until(table.id, ts)
        tables = tuple(t for e in events if (t := e.table) is not None)
        return Past(tables or (table,))

    @cached_property
    def last(self) -> Mapping[PhysicalTableID, TableEvent]:
        """The last event of any owner, by physical table."""
        last: dict[PhysicalTableID, TableEvent] = {}
        for event in self._history.events:
            last.update(dict.fromkeys(event.stored_ids, event))
        return last

    def _tables(
        self, table_id: TableID, physical_id: PhysicalTableID, ts: TimeStamp
    ) -> tuple[TableInfo, ...]:
        events = self._before(table_id, physical_id, ts)
        return tuple(t for e in events if (t := e.table) is not None)

    def _moved_from(
        self, table: TableInfo, physical_id: PhysicalTableID, ts: TimeStamp
    ) -> Iterator[Past]:
        """Yield the pasts of `Past.moved_from`."""
        if table.id not in self._filled_by:
            self._filled_by[table.id] = filled_by(self._history.events_of(table.id))
        moved, pending, visited = self._filled_by[table.id], [(physical_id, ts)], {physical_id}
        while pending:
            target, until = pending.pop()
            move = moved.get(target)
            if move is None or move.ts > until:
                continue
            before = TimeStamp(move.ts - 1)
            for source in sorted(move.from_ids - visited):
                visited.add(source)
                pending.append((source, before))
                tables = self._tables(table.id, source, before)
                if any(each.id != table.id for each in tables):
                    yield Past(tables)

    def _before(
        self, table_id: TableID, physical_id: PhysicalTableID, ts: TimeStamp
    ) -> list[TableEvent]:
        """Return the events of the owners of a physical table until `ts`, in order."""
        events = self._history.events_until(table_id, ts)
        begin = len(events)
        while begin and events[begin - 1].stores(physical_id):
            begin -= 1
        owned = list(events[begin:])
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
            # The table was recovered, or renamed into another database.
            return [*self._before(table_id, physical_id, defined[-1].ts), *owned]
        # REORGANIZE PARTITION may have filled it.
        return [*defined, *owned]
