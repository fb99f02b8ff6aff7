"""Statements of SQL as writes: versions of rows, all at one timestamp that the store chooses.

    insert   values                     must be new rows       -> PUT
    update   keys, and some values      merged with the rows   -> PUT; another key: DELETE and PUT
    delete   keys                                              -> DELETE

A statement has read the API's tables at their `resolved_ts` and holds the write latch of the store.
If `resolved_ts` is still the same here, where the store is open for writing, nothing has changed in
between, so no update is lost.

The commit timestamp is the store's own TSO: above `resolved_ts` and every commit, and durable,
because the statement raises `resolved_ts` to it in the same commit. A caller may pass a lower bound
from PD. Without one it is the time of day, or beside a stream the next one after the stream's
`resolved_ts`. It leaves room for a number below it for each row, which new rows without a primary
key get as `_tidb_rowid`; no two statements give the same one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.clock import Clock
from pyspark_theflash.base.errors import (
    CodecError,
    ColumnValueError,
    DuplicateKeyError,
    FeedConflictError,
    NotCaughtUpError,
    OptionError,
    SqlError,
    StatementConflictError,
    TableExistsError,
    TableNotFoundError,
    UnsupportedError,
)
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.apply.changes import key_handles
from pyspark_theflash.replication.incoming import IncomingRows
from pyspark_theflash.storage.engine.api import EngineReader, ScanSpec
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.mvcc.rows import Columns, handle_type, stored_columns
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.storage.store.catalog import feed_history, schema_history
from pyspark_theflash.storage.store.feed import (
    MAIN,
    SIDE,
    SIDE_IDS_FROM,
    WRITTEN_KIND,
    Feed,
    main_feed,
)
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.codec.array import take
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.assign import assign
from pyspark_theflash.tidb.codec.document import items, load
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo, parse_table_info

ROWS_BYTES_MAX: Final = 256 << 20
ROWID_KEY: Final = "k0"
_LAYER: Final = "rows of a statement"
_LOGICAL_BITS: Final = 18
_AUTO_INCREMENT, _ON_UPDATE_NOW = 512, 8192
_HIDDEN_INPUTS: Final = ("default_bit", "default_is_expr", "generated_expr_string")


class StatementKind(Enum):
    """The kinds of statements."""

    SCHEMA = ""
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class StatementWrite:
    """A statement's write.

    Attributes:
        kind: The kind, which determines the use of `rows`.
        read_ts: The `resolved_ts` at which it read; 0: the API had not written.
        least_ts: A lower bound of its commit timestamp; 0: none.
        created: Database and TableInfo without an id of each table that it creates.
        dropped: Database and id of each table that it drops.
        table_id: The table of `rows`.
        rows: Columns c<id> are new values of any type, k<id> the key of the row to change.
    """

    kind: StatementKind
    read_ts: TimeStamp
    least_ts: TimeStamp
    created: Sequence[tuple[str, str]] = ()
    dropped: Sequence[tuple[str, TableID]] = ()
    table_id: TableID | None = None
    rows: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """Events of the schema history and versions that a statement writes, all at `commit_ts`."""

    commit_ts: TimeStamp
    events: Sequence[TableEvent]
    rows: Sequence[IncomingRows]


def plan_statement(
    statement: StatementWrite, engine: EngineReader, view: View, clock: Clock
) -> PlannedStatement:
    """Choose a statement's timestamp, and compute what it writes.

    Args:
        statement: The statement.
        engine: The store, open for writing.
        view: Its records of feeds, progress, schema and written tables.
        clock: The clock of timestamps.

    Raises:
        StatementConflictError: The tables were written since the statement read them.
        NotCaughtUpError: A caller of the API has written rows that are not readable yet.
        FeedConflictError: A stream writes the table.
        TableExistsError, TableNotFoundError: Of a table to create, or to change.
        ColumnValueError, DuplicateKeyError: A row is invalid.
        CodecError, OptionError: The rows are malformed, or too large.
        UnsupportedError: The table has a feature that statements do not maintain.
    """
    is_side = main_feed(view) is Feed.STREAM
    feed = SIDE if is_side else MAIN
    progress, history = Progress.of(view, feed), feed_history(view, feed)
    resolved_ts = 0 if progress is None else progress.resolved_ts
    if statement.read_ts != resolved_ts:
        raise StatementConflictError(statement.read_ts, resolved_ts)
    written = view.of_kind(WRITTEN_KIND)
    if (newest := max(map(int, written.values()), default=0)) > resolved_ts:
        raise NotCaughtUpError(resolved_ts, newest)
    count = 0 if statement.rows is None else statement.rows.num_rows
    main = Progress.of(view, MAIN)
    ends = [resolved_ts, *(each.resolved_ts for each in [main] if each is not None)]
    ends += [] if history is None else [history.end_ts]
    now = 0 if is_side or statement.least_ts else clock.wall_ms() << _LOGICAL_BITS
    commit_ts = TimeStamp(max(statement.least_ts, now, max(ends) + max(count, 1)))
    events = [TableEvent(commit_ts, db, id, None) for db, id in statement.dropped]
    events += _created(statement, view, history, commit_ts)
    rows: list[IncomingRows] = []
    if statement.rows is not None and statement.table_id is not None and count:
        table = _table(statement.table_id, view, history, resolved_ts)
        change = _Change(engine, view, table, statement)
        batch = change.versions(statement.rows, commit_ts)
        rows = [IncomingRows(table.id, PhysicalTableID(table.id), batch)]
    return PlannedStatement(commit_ts, events, rows)


def _created(
    statement: StatementWrite, view: View, history: SchemaHistory | None, commit_ts: TimeStamp
) -> list[TableEvent]:
    used = [0] if history is None else [*history.table_ids]
    table_id = max([SIDE_IDS_FROM - 1, *used, *map(int, view.of_kind(WRITTEN_KIND))])
    events, every = [], schema_history(view)
    for db, text in statement.created:
        table_id += 1
        info = {**load(text), "id": table_id}
        table = parse_table_info(db, info)
        if every is not None:
            try:
                every.table_by_name(table.full_name, every.end_ts)
            except TableNotFoundError:
                pass
            else:
                raise TableExistsError(table.full_name)
        events.append(TableEvent(commit_ts, db, TableID(table_id), table))
    return events


def _table(table_id: TableID, view: View, history: SchemaHistory | None, ts: int) -> TableInfo:
    if history is None or table_id not in history.table_ids:
        reason = "is not a table that was created here: a stream writes it, or it does not exist"
        raise FeedConflictError(f"table {table_id}", reason)
    table = history.table_at_commit(table_id, TimeStamp(min(ts, history.end_ts)))
    _check_supported(table)
    return table


def _check_supported(table: TableInfo) -> None:
    """Raise `UnsupportedError` if a table has a feature that statements do not maintain."""
    info = load(table.json_text)
    has_key = table.primary_key is not None and table.has_rowid
    flags = [int(column.type.flag) for column in table.columns]
    features = {
        "partitions": table.partition is not None,
        "no rows of its own": not table.holds_rows,
        "an unfinished change of columns": any(not c.is_public for c in table.columns),
        "a unique index": has_key
        or any(i.get("is_unique") and not i["is_primary"] for i in items(info.get("index_info"))),
        "AUTO_INCREMENT or ON UPDATE": any(f & (_AUTO_INCREMENT | _ON_UPDATE_NOW) for f in flags),
        "a computed column or default": any(c.get(k) for c in info["cols"] for k in _HIDDEN_INPUTS),
    }
    for feature, has in features.items():
        if has:
            raise UnsupportedError(f"a statement on a table with {feature}", table.full_name)


class _Change:
    """The rows of one statement on one table."""

    def __init__(
        self, engine: EngineReader, view: View, table: TableInfo, statement: StatementWrite
    ) -> None:
        self._engine, self._view, self._table = engine, view, table
        self._kind, self._read_ts = statement.kind, statement.read_ts
        self._infos = {info.id: info for info in stored_columns(table)}

    def versions(self, rows: pa.Table, commit_ts: TimeStamp) -> pa.Table:
        """Return the versions that the statement writes, sorted by handle."""
        arrays = _arrays(rows)
        values = self._columns(arrays, "c")
        if self._kind is StatementKind.INSERT:
            missing = [info for info in self._infos.values() if info.id not in values]
            values |= {info.id: self._default(info, rows.num_rows) for info in missing}
            return self._written(values, rows.num_rows, None, commit_ts)
        old = self._old_handles(arrays)
        if pc.count_distinct(old).as_py() < len(old):
            raise SqlError("the statement changes a row twice")
        if self._kind is StatementKind.DELETE:
            nothing = {info.id: _nulls(info, 0) for info in self._infos.values()}
            return self._batch(nothing, pa.array([], old.type), old, commit_ts)
        kept = [info for info in self._infos.values() if info.id not in values]
        values |= self._stored(old, kept)
        return self._written(values, rows.num_rows, old, commit_ts)

    def _columns(self, arrays: Mapping[str, pa.Array], prefix: str) -> dict[ColumnID, pa.Array]:
        """Assign the columns whose names have the prefix, by id."""
        columns = {}
        for name, array in arrays.items():
            if not name.startswith(prefix) or name == ROWID_KEY:
                continue
            info = self._infos.get(ColumnID(int(name[1:]) if name[1:].isdigit() else 0))
            if info is None:
                raise CodecError(_LAYER, f"{name[:20]!r} is not a column of the table")
            columns[info.id] = assign(array, info.type, f"{self._table.full_name}.{info.name}")
        return columns

    def _default(self, info: ColumnInfo, count: int) -> pa.Array:
        name = f"{self._table.full_name}.{info.name}"
        if info.default is None and info.type.is_not_null:
            raise ColumnValueError(name, "no value, and the column has no default")
        value = assign(pa.array([info.default], pa.string()), info.type, name)
        return pa.repeat(value[0], count)

    def _old_handles(self, arrays: Mapping[str, pa.Array]) -> pa.Array:
        if self._table.has_rowid:
            handles = arrays.get(ROWID_KEY)
            if handles is None or handles.type != pa.int64() or handles.null_count:
                raise CodecError(_LAYER, f"{ROWID_KEY} is missing or not int64")
            return handles
        keys = self._columns(arrays, "k")
        if missing := {c.id for c in self._table.handle_columns} - keys.keys():
            raise CodecError(_LAYER, f"k{min(missing)} is missing")
        return key_handles(self._table, keys)

    def _written(
        self, values: Columns, count: int, old: pa.Array | None, commit_ts: TimeStamp
    ) -> pa.Table:
        """Return versions of rows with these values, in place of those with the handles `old`."""
        if not self._table.has_rowid:
            new = key_handles(self._table, values)
        elif old is not None:
            new = old
        else:
            new = pa.array(np.arange(commit_ts - count + 1, commit_ts + 1, dtype=np.int64))
        if pc.count_distinct(new).as_py() < len(new):
            raise DuplicateKeyError(self._table.full_name)
        added = new if old is None else new.filter(pc.invert(pc.is_in(new, value_set=old)))
        if len(self._existing(added, [])[0]):
            raise DuplicateKeyError(self._table.full_name)
        gone = pa.array([], new.type)
        if old is not None:
            gone = old.filter(pc.invert(pc.is_in(old, value_set=new)))
        return self._batch(values, new, gone, commit_ts)

    def _stored(self, handles: pa.Array, infos: Sequence[ColumnInfo]) -> Columns:
        """Return columns of the rows with these handles, in their order."""
        if not infos:
            return {}
        existing, columns = self._existing(handles, infos)
        places = pc.index_in(handles, value_set=existing)
        if places.null_count:
            raise CodecError(_LAYER, "a row to update does not exist")
        return {id: column.take(places) for id, column in columns.items()}

    def _existing(
        self, handles: pa.Array, infos: Sequence[ColumnInfo]
    ) -> tuple[pa.Array, dict[ColumnID, pa.Array]]:
        """Return the handles of those that exist, and columns of their rows."""
        physical_id = PhysicalTableID(self._table.id)
        batches: list[pa.RecordBatch] = []
        if len(handles):
            low, high = (bound.as_py() for bound in pc.min_max(handles).values())
            stats = self._engine.regions(self._view, physical_id)
            away = {r.region_id for r in stats if _is_outside(r.start, r.end, low, high)}
            columns = [scan_column(self._table, info) for info in infos]
            spec = ScanSpec(columns, self._read_ts, with_handle=True)
            for region in self._engine.plan(self._view, physical_id):
                if region.region_id in away:
                    continue
                for batch in self._engine.scan(region, spec):
                    chosen = batch.filter(pc.is_in(batch.column(0), value_set=handles))
                    batches += [chosen] * bool(chosen.num_rows)
                    _check_size(batches)
        if not batches:
            return pa.array([], handles.type), {info.id: _nulls(info, 0) for info in infos}
        table = pa.Table.from_batches(batches).combine_chunks()
        arrays = [column.combine_chunks() for column in table.columns]
        ids = [info.id for info in infos]
        return arrays[0], dict(zip(ids, arrays[1:], strict=True))

    def _batch(
        self, values: Columns, new: pa.Array, gone: pa.Array, commit_ts: TimeStamp
    ) -> pa.Table:
        """Return the versions: puts of `new` with these values, deletes of `gone`."""
        handles, count = pa.concat_arrays([new, gone]), len(new) + len(gone)
        columns = [(info.id, arrow_type(info.type)) for info in self._infos.values()]
        schema = version_schema(handle_type(self._table), columns)
        order = pc.sort_indices(handles)
        is_put = np.arange(count) < len(new)
        ops = np.where(is_put, int(Op.PUT), int(Op.DELETE)).astype(np.uint8)
        places = np.where(is_put, np.arange(count), -1)[order.to_numpy()]
        times = pa.repeat(pa.scalar(commit_ts, pa.uint64()), count)
        arrays = [handles.take(order), times, times, pa.array(ops).take(order)]
        arrays += [take(values[id], places) for id, _ in columns]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        _check_size([batch])
        return pa.Table.from_batches([batch])


def _arrays(rows: pa.Table) -> dict[str, pa.Array]:
    """Validate a caller's rows; return their columns by name."""
    if len({*rows.schema.names}) < len(rows.schema.names):
        raise CodecError(_LAYER, "two columns have the same name")
    try:
        for batch in rows.to_batches():
            batch.validate(full=True)
        return {
            name: column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
            for name, column in zip(rows.schema.names, rows.columns, strict=True)
        }
    except pa.ArrowException as error:
        reason = f"the buffers are damaged ({type(error).__name__})"
        raise CodecError(_LAYER, reason) from error


def _check_size(batches: Sequence[pa.RecordBatch]) -> None:
    if sum(batch.nbytes for batch in batches) > ROWS_BYTES_MAX:
        reason = f"has more than {ROWS_BYTES_MAX} bytes of rows: change fewer at a time"
        raise OptionError("statement", reason)


def _is_outside(start: object, end: object, low: object, high: object) -> bool:
    """Whether a region from `start` to before `end` has none of the handles from low to high."""
    is_after = start is not None and high < start  # type: ignore[operator]
    return is_after or (end is not None and low >= end)  # type: ignore[operator]


def _nulls(info: ColumnInfo, count: int) -> pa.Array:
    return pa.nulls(count, arrow_type(info.type))
