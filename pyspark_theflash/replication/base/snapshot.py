"""A base that is read by SQL from a TiDB, at the start of the schema history (`tidb_snapshot`).

    SELECT `id`, ... FROM `db`.`t` PARTITION (`p`) WHERE (`id` > 41) ORDER BY `id` LIMIT 4096

A page is a statement of this form: rows in the order of their keys, from the last key on. Handles
must ascend, and at the end of a physical table the number of rows must equal COUNT(*), so that a
condition which TiDB understands in another way cannot lose or repeat rows.

The rows at a timestamp exist until TiKV's garbage collection passes it. TiDB rejects a snapshot
below the safe point, so the snapshot is set again after every page, before it is used. While the
session that allocated the timestamp lasts, its transaction holds garbage collection back (up to
tidb_gc_max_wait_time, a day by default); a load that is continued later has no such transaction.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    SchemaSourceError,
    ServiceUnavailableError,
)
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.base_rows import BasePage
from pyspark_theflash.replication.apply.changes import key_handles
from pyspark_theflash.replication.base.columns import (
    after,
    decode_column,
    expression,
    key_columns,
    literal,
    quoted,
    selected_columns,
)
from pyspark_theflash.replication.base.session import Row
from pyspark_theflash.tidb.codec.document import int64, load, shaped, texts, uint64
from pyspark_theflash.tidb.codec.field_type import ColumnFlag
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN_ID, TableInfo

_T = TypeVar("_T")
PAGE_BYTES: Final = 16 << 20
_FIRST_ROWS, _MOST_ROWS = 256, 1 << 16
_STALLED_MS: Final = 600_000
"""The longest time without progress after errors of TiDB."""
_RETRY_MS: Final = 1_000
_IDS: Final = (
    "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME), TIDB_TABLE_ID FROM INFORMATION_SCHEMA.TABLES "
    "WHERE TIDB_TABLE_ID IS NOT NULL"
)
_PARTITION_IDS: Final = (
    "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, '.', PARTITION_NAME), TIDB_PARTITION_ID "
    "FROM INFORMATION_SCHEMA.PARTITIONS WHERE PARTITION_NAME IS NOT NULL"
)


class TidbSession(Protocol):
    """Session of a TiDB; see `MySqlSession`."""

    def query(self, statement: str) -> list[Row]: ...

    def page(self, statement: str, most_bytes: int) -> tuple[list[Row], int, bool]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """The place after a row of a physical table: its key, and the rows up to it."""

    physical_id: PhysicalTableID
    key: tuple[str, ...] = ()
    rows: int = 0

    def to_text(self) -> str:
        return json.dumps([self.physical_id, self.key, self.rows])

    @classmethod
    def from_text(cls, text: str) -> "_Place":
        """Inverse of `to_text`. Raises `CodecError`."""
        with shaped("place in a base"):
            physical_id, key, rows = load(text)
            return cls(PhysicalTableID(int64(physical_id)), texts(key), uint64(rows))


class SnapshotBase:
    """A `RowBase` over SQL. Close it to end its sessions."""

    def __init__(
        self,
        connect: Callable[[], TidbSession],
        clock: Clock,
        note: Callable[[str], None] = lambda _: None,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        """`note` is called with a text about the progress."""
        self._connect, self._clock, self._note = connect, clock, note
        self._page_bytes, self._limit = page_bytes, _FIRST_ROWS
        self._session: TidbSession | None = None
        self._holder: TidbSession | None = None
        self._ts = TimeStamp(0)

    @property
    def source(self) -> str:
        """The rows are those at a timestamp, from whichever server of the cluster."""
        return "mysql"

    def now(self) -> TimeStamp:
        """Return a new timestamp, and hold garbage collection back there. For a new store."""
        if self._holder is not None:
            self._holder.close()
        self._holder = session = self._connect()
        session.query("BEGIN")
        ((ts,),) = session.query("SELECT @@tidb_current_ts")
        with shaped("@@tidb_current_ts"):
            return TimeStamp(uint64(int(ts or b"")))

    def open(self, history: SchemaHistory, tables: list[TableInfo]) -> None:
        """Check that TiDB has the tables with their ids, at the start of the history.

        Raises:
            SchemaSourceError: It does not: the schema is another cluster's, or rights are missing.
            BaseCollectedError: The rows at that time have been garbage collected.
        """
        self._ts = history.start_ts
        ids = self._retried(lambda session: _ids(session, _IDS))
        partition_ids = self._retried(lambda session: _ids(session, _PARTITION_IDS))
        for table in tables:
            self._check(table.full_name, ids, table.id)
            for each in table.partition.definitions if table.partition else ():
                self._check(f"{table.full_name}.{each.name}", partition_ids, each.id)

    def why_missing(self, table: TableInfo) -> str | None:
        """Return None: SQL has all rows."""
        return None

    def pages(self, table: TableInfo, at: str | None) -> Iterator[BasePage]:
        """Yield the rows of a table from a place on, partition by partition.

        Raises:
            ServiceUnavailableError: TiDB has not responded for ten minutes.
            BaseCollectedError: The rows have been garbage collected.
            CorruptionError: TiDB's answers contradict each other.
            CodecError: A value is not one of its column.
        """
        place = _Place.from_text(at) if at else None
        if place is not None and len(place.key) != len(key_columns(table)):
            raise CodecError("place in a base", f"{len(place.key)} values for {table.full_name}")
        names: dict[PhysicalTableID, str | None] = {PhysicalTableID(table.id): None}
        if table.partition is not None:
            names = {each.id: each.name for each in table.partition.definitions}
        is_reached = place is None
        for physical_id, name in names.items():
            is_reached = is_reached or (place is not None and place.physical_id == physical_id)
            if is_reached:
                yield from self._physical(table, name, place or _Place(physical_id))
                place = None

    def close(self) -> None:
        """End the sessions."""
        for session in (self._session, self._holder):
            if session is not None:
                session.close()
        self._session = self._holder = None

    # --

    def _physical(
        self, table: TableInfo, partition: str | None, place: _Place
    ) -> Iterator[BasePage]:
        """Yield the rows of one physical table."""
        source = f"{quoted(table.db)}.{quoted(table.name)}"
        if partition is not None:
            source += f" PARTITION ({quoted(partition)})"
        is_last = False
        while not is_last:
            rows, is_last = self._page(table, source, place)
            if not rows:
                break
            place, batch = _next(table, place, rows)
            self._note(f"loading {table.full_name}: {place.rows:,} rows")
            yield BasePage(batch, place.to_text(), place.physical_id)
        ((count,),) = self._retried(lambda session: session.query(f"SELECT COUNT(*) FROM {source}"))  # noqa: S608
        if count != str(place.rows).encode():
            reason = (
                f"{place.rows} rows of {source} in the order of their keys, but not by COUNT(*)"
            )
            raise CorruptionError("base over SQL", 0, reason)

    def _page(self, table: TableInfo, source: str, place: _Place) -> tuple[list[Row], bool]:
        """Return the rows after a place, and whether they are the last."""
        keys = key_columns(table)
        columns = ", ".join(map(expression, selected_columns(table)))
        where = f" WHERE {after(keys, place.key)}" if place.key else ""
        order = ", ".join(quoted(column.name) for column in keys)
        limit = self._limit
        statement = f"SELECT {columns} FROM {source}{where} ORDER BY {order} LIMIT {limit}"  # noqa: S608
        rows, size, is_cut = self._retried(
            lambda session: session.page(statement, self._page_bytes)
        )
        if rows:
            fitting = self._page_bytes * len(rows) // max(size, 1)
            self._limit = max(1, min(fitting, 4 * limit, _MOST_ROWS))
        return rows, len(rows) < limit and not is_cut

    def _retried(self, read: Callable[[TidbSession], _T]) -> _T:
        """Read at the snapshot, in a new session after an error that may pass."""

        def attempt() -> _T:
            try:
                if self._session is None:
                    self._session = self._connect()
                    self._session.query("SET time_zone = '+00:00', sql_mode = ''")
                    self._session.query(f"SET tidb_snapshot = {self._ts}")
                answer = read(self._session)
                # Rejected if the safe point has passed, so that what was read may be incomplete.
                # TiDB checks only another snapshot than the session has.
                self._session.query(f"SET tidb_snapshot = '', tidb_snapshot = {self._ts}")
            except ServiceUnavailableError:
                if self._session is not None:
                    self._session.close()
                    self._session = None
                raise
            return answer

        deadline = Deadline(self._clock, _STALLED_MS)
        return deadline.retried(attempt, ServiceUnavailableError, pause_ms=_RETRY_MS)

    def _check(self, name: str, ids: dict[str, int], id: int) -> None:
        actual = ids.get(name.lower())
        if actual != id:
            text = f"id {actual}" if actual else "not there, or not visible to this account"
            reason = f"{name} has id {id} in the schema, but is {text} at {self._ts}"
            raise SchemaSourceError("base over SQL", reason)


def _ids(session: TidbSession, statement: str) -> dict[str, int]:
    with shaped("INFORMATION_SCHEMA"):
        rows = session.query(statement)
        return {(name or b"").decode().lower(): int(id or b"") for name, id in rows}


def _next(table: TableInfo, place: _Place, rows: Sequence[Row]) -> tuple[_Place, pa.RecordBatch]:
    """Decode a page; return the place after it, and its rows."""
    columns = selected_columns(table)
    if any(len(row) != len(columns) for row in rows):
        raise CodecError("rows of TiDB", f"{table.full_name}: a row of another width")
    arrays = [
        decode_column(values, column, table.full_name)
        for values, column in zip(zip(*rows, strict=True), columns, strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])
    by_id = {column.id: array for column, array in zip(columns, arrays, strict=True)}
    if any(by_id[column.id].null_count for column in key_columns(table)):
        raise CodecError("rows of TiDB", f"{table.full_name}: a key is NULL")
    handles = by_id[ROWID_COLUMN_ID] if table.has_rowid else key_handles(table, by_id)
    last = dict(zip((c.id for c in columns), rows[-1], strict=True))
    key = tuple(
        literal(last[c.id] or b"", c.type, f"{table.full_name}.{c.name}")
        for c in key_columns(table)
    )
    if not _ascend(handles, table) or key == place.key:
        raise CorruptionError("base over SQL", 0, f"keys of {table.full_name} do not ascend")
    return _Place(place.physical_id, key, place.rows + len(rows)), batch


def _ascend(handles: pa.Array, table: TableInfo) -> bool:
    """Return whether handles are in the order of TiKV, without repetition."""
    if pa.types.is_integer(handles.type):
        numbers = handles.to_numpy()
        key = table.handle_columns
        if key and key[0].type.flag & ColumnFlag.UNSIGNED:
            numbers = numbers.view(np.uint64)
        return bool((numbers[1:] > numbers[:-1]).all())
    count = len(handles) - 1
    is_less = pc.less(handles.slice(0, count), handles.slice(1))
    return bool(pc.all(is_less, min_count=0).as_py())
