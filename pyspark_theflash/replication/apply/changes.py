"""Convert the encoded rows of many transactions to versions of one table.

An insert is prefixed with the row's handle; updates and deletes are not. The handle comes from

    integer or clustered primary key   the key's columns; an insert may have them in its handle only
    `_tidb_rowid`                      an insert's handle; updates and deletes hold it as column -1

Several changes of one row in one transaction have the same commit_ts. The last of them, in the
order of the transaction's `sequence`, becomes the version.
"""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnknownPartitionError, UnsupportedError
from pyspark_theflash.base.types import ColumnID, PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.double_write import RowChange, body_of_insert, second_writes
from pyspark_theflash.replication.source.prewrite import DELETE_ROW, INSERT, UPDATE, TableMutations
from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.storage.mvcc.rows import (
    Columns,
    aligned,
    column_specs,
    from_int_handle,
    handle_type,
    held_columns,
    stored_columns,
    with_defaults,
)
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.storage.mvcc.visibility import sort_order
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES
from pyspark_theflash.tidb.codec.handle import encode_common_handles, key_strings
from pyspark_theflash.tidb.codec.row import DecodedRows, RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_inserts_v1, decode_rows_v1, decode_updates_v1
from pyspark_theflash.tidb.partitioning.row_partition import assign_partitions, partition_columns
from pyspark_theflash.tidb.schema.lineage import DoubleWrites, double_writes
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ROWID_COLUMN_ID, ColumnInfo, TableInfo

Ints = npt.NDArray[np.int64]
ChangesContent: TypeAlias = tuple[
    tuple[list[bytes], ...],
    list[npt.NDArray[np.uint8]],
    list[TimeStamp],
    list[TimeStamp],
]
"""Rows inserted, updated and deleted; sequence, commit_ts and start_ts of each transaction."""

CHUNK_ROWS: Final = 1 << 15
"""Rows decoded together: some megabytes, which stay in the CPU's cache."""
OFFSET_BYTES: Final = 4
_OTHER_COLLATION: Final = (
    "a cluster without new_collations_enabled_on_first_bootstrap, or with an unknown collation,"
)


@dataclass(slots=True)
class TableChanges:
    """Changes of one table under one TableInfo, in commit order, to be converted to versions.

    `placement` is the TableInfo that assigns rows to partitions; None is `table`. It may be a later
    state of the table, whose reorganisation moved rows written under `table`. If TiDB writes rows
    twice under it (`double_write`), both writes become versions, each in its partition.
    """

    table: TableInfo
    placement: TableInfo | None = None
    inserted: list[bytes] = field(default_factory=list)
    updated: list[bytes] = field(default_factory=list)
    deleted: list[bytes] = field(default_factory=list)
    row_bytes: int = field(init=False)
    """Minimum size of a decoded row; a NULL takes the width of its type."""
    _sequences: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    _commit_ts: list[TimeStamp] = field(default_factory=list)
    _start_ts: list[TimeStamp] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row_bytes = sum(_width(arrow_type(c.type)) for c in stored_columns(self.table))

    def add(self, mutations: TableMutations, start_ts: TimeStamp, commit_ts: TimeStamp) -> None:
        """Append one transaction's changes of the table."""
        self.inserted += mutations.inserted
        self.updated += mutations.updated
        self.deleted += mutations.deleted
        self._sequences.append(np.asarray(mutations.sequence, np.uint8))
        self._commit_ts.append(commit_ts)
        self._start_ts.append(start_ts)

    @property
    def first_ts(self) -> TimeStamp:
        """The lowest commit_ts."""
        return self._commit_ts[0]

    @property
    def count(self) -> int:
        """The number of changes."""
        return sum(map(len, self._sequences))

    def below(self, ts: TimeStamp) -> "TableChanges":
        """Return the changes that committed below `ts`."""
        count = bisect.bisect_left(self._commit_ts, ts)
        kinds = np.concatenate([np.empty(0, np.uint8), *self._sequences[:count]])
        below = type(self)(self.table, self.placement)
        for kind, rows in below._rows.items():
            rows += islice(self._rows[kind], int((kinds == kind).sum()))
        below._sequences = self._sequences[:count]
        below._commit_ts, below._start_ts = self._commit_ts[:count], self._start_ts[:count]
        return below

    def extend(self, content: "ChangesContent") -> None:
        """Append a part that `divided` has yielded, of changes under the same TableInfos."""
        rows, sequences, commit_ts, start_ts = content
        for kind, more in zip((self.inserted, self.updated, self.deleted), rows, strict=True):
            kind += more
        self._sequences += sequences
        self._commit_ts += commit_ts
        self._start_ts += start_ts

    def divided(self, parts: int) -> Iterator["ChangesContent"]:
        """Yield up to `parts` parts of similar sizes, without dividing commits, to send them."""
        rows = [iter(of) for of in (self.inserted, self.updated, self.deleted)]
        ends = np.cumsum([len(sequence) for sequence in self._sequences])
        targets = np.arange(1, parts) * (ends[-1] / parts)
        cuts = np.unique([0, *np.searchsorted(ends, targets), len(ends)])
        for begin, end in itertools.pairwise(cuts.tolist()):
            sequences = self._sequences[begin:end]
            kinds = np.concatenate(sequences)
            counts = [int((kinds == kind).sum()) for kind in (INSERT, UPDATE, DELETE_ROW)]
            taken = tuple(list(islice(of, count)) for of, count in zip(rows, counts, strict=True))
            yield taken, sequences, self._commit_ts[begin:end], self._start_ts[begin:end]

    def to_versions(self) -> list[VersionBatch]:
        """Decode the versions, one batch per physical table; the rows are consumed.

        Raises:
            CodecError: A row is not correctly encoded.
            SchemaOutdatedError: Rows have columns that are not in `table`, or required ones are
                missing.
            UnknownPartitionError: From its commit_ts on, rows are not written twice as expected.
            UnsupportedError: The rows' partitions cannot be determined.
        """
        if (double := double_writes(self.placement or self.table)) is not None:
            return [v for c in self._written_to(double) for v in c.to_versions()]
        parts = [
            *map(self._inserted, _chunks(self.inserted)),
            *map(self._updated, _chunks(self.updated)),
            *map(self._deleted, _chunks(self.deleted)),
        ]
        # The rows are decoded into columns and not needed any more.
        for rows in (self.inserted, self.updated, self.deleted):
            rows.clear()
        return self._assemble(parts)

    @property
    def _rows(self) -> Mapping[int, list[bytes]]:
        return {INSERT: self.inserted, UPDATE: self.updated, DELETE_ROW: self.deleted}

    def _written_to(self, double: DoubleWrites) -> list["TableChanges"]:
        """Split the changes into first and second writes."""
        rows = {
            INSERT: zip(self.inserted, self._located(INSERT, double), strict=True),
            UPDATE: zip(self.updated, self._located(UPDATE, double), strict=True),
            DELETE_ROW: zip(self.deleted, self._located(DELETE_ROW, double), strict=True),
        }
        parts = TableChanges(self.table, double.first), TableChanges(self.table, double.second)
        transactions = zip(self._sequences, self._start_ts, self._commit_ts, strict=True)
        for sequence, start_ts, commit_ts in transactions:
            changes = [next(rows[kind]) for kind in sequence.tolist()]
            is_second = second_writes(
                [change for _, change in changes],
                is_delete_only=double.is_delete_only,
                has_unique_key=self.table.has_unique_key,
            )
            if is_second is None:
                raise UnknownPartitionError(self.table.full_name, start_ts, commit_ts)
            is_first = [not second for second in is_second]
            for part, selected in zip(parts, (is_first, is_second), strict=True):
                part.add(_mutations(self.table, compress(changes, selected)), start_ts, commit_ts)
        return [part for part in parts if any(map(len, part._sequences))]

    def _located(self, kind: int, double: DoubleWrites) -> Iterator[RowChange]:
        """Yield the changes of one kind, with the partitions of their first and second write."""
        for chunk in filter(None, _chunks(self._rows[kind])):
            specs = column_specs(self.table, self._row_columns())
            buffer = RowBuffer.from_list(chunk)
            bodies = map(body_of_insert, chunk) if kind == INSERT else iter(chunk)
            sides: list[dict[ColumnID, pa.Array] | None]
            if kind == INSERT:
                sides = [None, self._inserts(chunk)]
            elif kind == UPDATE:
                sides = [self._columns(side) for side in decode_updates_v1(buffer, specs)]
            else:
                sides = [self._columns(decode_rows_v1(buffer, specs)), None]
            decoded = next(side for side in sides if side is not None)
            handles = decoded[ROWID_COLUMN_ID].to_pylist()
            (old, old_again), (new, new_again) = (_both_ids(s, len(chunk), double) for s in sides)
            places = zip(old, new, old_again, new_again, strict=True)
            for body, handle, place in zip(bodies, handles, places, strict=True):
                yield RowChange(kind, body, handle, *place)

    def _inserted(self, rows: Sequence[bytes]) -> "ChangesPart":
        columns = self._inserts(rows)
        return self._part(columns, len(rows), Op.PUT)

    def _updated(self, rows: Sequence[bytes]) -> "ChangesPart":
        specs = column_specs(self.table, self._row_columns())
        old, new = (self._columns(r) for r in decode_updates_v1(RowBuffer.from_list(rows), specs))
        part = self._part(new, len(rows), Op.PUT)
        if not self._handles(old).equals(part.handles):
            raise UnsupportedError("an update that changes the row's handle", self.table.full_name)
        if not np.array_equal(self._physical_ids(old, len(rows)), part.physical):
            # TiDB writes such an update as a delete and an insert.
            raise UnsupportedError(
                "an update that moves a row to another partition", self.table.full_name
            )
        return part

    def _deleted(self, rows: Sequence[bytes]) -> "ChangesPart":
        specs = column_specs(self.table, self._row_columns())
        columns = self._columns(decode_rows_v1(RowBuffer.from_list(rows), specs))
        return self._part(columns, len(rows), Op.DELETE)

    def _part(self, columns: dict[ColumnID, pa.Array], rows: int, op: Op) -> "ChangesPart":
        handles, physical = self._handles(columns), self._physical_ids(columns, rows)
        columns.pop(ROWID_COLUMN_ID, None)
        if op is Op.DELETE:
            columns = {i: pa.nulls(rows, c.type) for i, c in columns.items() if i >= 0}
        return ChangesPart(columns, handles, physical, np.full(rows, op, np.uint8))

    def _row_columns(self) -> tuple[ColumnInfo, ...]:
        """Return the columns of updated and deleted rows."""
        return stored_columns(self.table) + ((ROWID_COLUMN,) if self.table.has_rowid else ())

    def _inserts(self, inserted: Sequence[bytes]) -> dict[ColumnID, pa.Array]:
        """Decode inserted rows, including columns that only the handle contains."""
        key = self.table.handle_columns if self.table.is_common_handle else ()
        handles, rows = decode_inserts_v1(
            RowBuffer.from_list(inserted),
            column_specs(self.table, stored_columns(self.table)),
            column_specs(self.table, key),
        )
        if not isinstance(handles, pa.Array):
            by_id = {c.id: values for c, values in zip(key, handles, strict=True)}
            columns = self._columns(rows, by_id)
            self._check_key_strings(by_id, columns)
            return columns
        if self.table.has_rowid:
            return self._columns(rows) | {ROWID_COLUMN_ID: handles}
        return self._columns(
            rows, {c.id: from_int_handle(handles, c) for c in self.table.handle_columns}
        )

    def _columns(
        self, rows: DecodedRows, from_key: Columns | None = None
    ) -> dict[ColumnID, pa.Array]:
        """Return decoded columns by id, with missing key columns taken from `from_key`."""
        return held_columns(
            self.table, self._row_columns(), rows, from_key or {}, self._commit_ts[0]
        )

    def _check_key_strings(self, in_handle: Columns, in_row: Columns) -> None:
        """Check that the collation keys in handles are those computed from the values here.

        They differ in a cluster without the new collations, whose keys are the strings themselves,
        so that 'a', 'a ' and 'A' are different. Only an insert's handle shows which kind of cluster
        wrote it.
        """
        key = self.table.primary_key
        for part, column in zip(key.columns if key else (), self.table.handle_columns, strict=True):
            if column.type.tp not in STRING_TYPES:
                continue
            values = in_row[column.id]
            # With new collations a row has the string as well as its collation key in the handle.
            # Without, the handle has the string, and `values` may be taken from there.
            is_value = values.type == arrow_type(column.type)
            if not is_value or not key_strings(values, column.type, part.length).equals(
                in_handle[column.id].cast(pa.binary())
            ):
                raise UnsupportedError(_OTHER_COLLATION, self.table.full_name)

    def _handles(self, columns: Columns) -> pa.Array:
        return (
            columns[ROWID_COLUMN_ID] if self.table.has_rowid else key_handles(self.table, columns)
        )

    def _physical_ids(self, columns: Columns, rows: int) -> Ints:
        return physical_ids(self.placement or self.table, columns, rows)

    def _assemble(self, parts: Sequence["ChangesPart"]) -> list[VersionBatch]:
        """Merge inserts, updates and deletes into version batches, in the order of `sequence`."""
        kinds = np.concatenate(self._sequences)
        places = np.concatenate(
            [np.flatnonzero(kinds == kind) for kind in (INSERT, UPDATE, DELETE_ROW)]
        )
        commit_ts = _spread(self._commit_ts, self._sequences)[places]
        start_ts = _spread(self._start_ts, self._sequences)[places]
        handle = pa.concat_arrays([part.handles for part in parts])
        physical = np.concatenate([part.physical for part in parts])
        op = np.concatenate([part.ops for part in parts])
        order = sort_order(handle, pa.array(physical), pa.array(commit_ts), pa.array(places))
        is_last = _last_of_each(handle.take(pa.array(order)), physical[order], commit_ts[order])
        columns = aligned([part.columns for part in parts], [len(part.ops) for part in parts])
        system = [handle, commit_ts, start_ts, op]
        return split_by_partition(self.table, system, columns, physical, order[is_last])


def _both_ids(
    columns: Columns | None, rows: int, double: DoubleWrites
) -> tuple[list[PhysicalTableID], list[PhysicalTableID]]:
    """Return the partitions of each row's first and second write; 0 for none."""
    second = np.zeros(rows, np.int64)
    if columns is None:
        return second.tolist(), second.tolist()
    first = physical_ids(double.first, columns, rows)
    is_twice = np.isin(first, sorted(double.twice))
    filtered = {i: column.filter(pa.array(is_twice)) for i, column in columns.items()}
    second[is_twice] = physical_ids(double.second, filtered, int(is_twice.sum()))
    return first.tolist(), second.tolist()


def _mutations(table: TableInfo, changes: Iterable[tuple[bytes, RowChange]]) -> TableMutations:
    rows: dict[int, list[bytes]] = {INSERT: [], UPDATE: [], DELETE_ROW: []}
    kinds = bytearray()
    for row, change in changes:
        rows[change.kind].append(row)
        kinds.append(change.kind)
    sequence = np.frombuffer(bytes(kinds), np.uint8)
    return TableMutations(table.id, rows[INSERT], rows[UPDATE], rows[DELETE_ROW], sequence)


def _width(tp: pa.DataType) -> int:
    """Return the fixed bytes per value of a column, without the data of variable-width values."""
    try:
        return int(tp.bit_width) // 8
    except ValueError:
        return OFFSET_BYTES


@dataclass(frozen=True, slots=True)
class ChangesPart:
    """Decoded rows of one kind; the columns of deletes are null."""

    columns: dict[ColumnID, pa.Array]
    handles: pa.Array
    physical: Ints
    ops: npt.NDArray[np.uint8]


def _chunks(rows: list[bytes]) -> Iterator[list[bytes]]:
    """Yield rows in chunks of `CHUNK_ROWS`; one empty chunk if there are none."""
    for start in range(0, max(len(rows), 1), CHUNK_ROWS):
        yield rows[start : start + CHUNK_ROWS]


def key_handles(table: TableInfo, columns: Columns) -> pa.Array:
    """Compute handles from the primary key's columns, of a table with clustered primary key."""
    key = table.handle_columns
    if table.pk_is_handle:
        return _to_int_handle(columns[key[0].id])
    lengths = [part.length for part in table.primary_key.columns] if table.primary_key else []
    return encode_common_handles([columns[c.id] for c in key], [c.type for c in key], lengths)


def physical_ids(table: TableInfo, columns: Columns, rows: int) -> Ints:
    """Return the physical table id of each row; `columns` may include absences of values.

    Raises:
        NoPartitionError, UnsupportedError: See `assign_partitions`.
        CodecError: An origin default is not a value of its type.
    """
    whole = with_defaults(table, partition_columns(table), columns, rows)
    return assign_partitions(table, whole, rows)


def split_by_partition(
    table: TableInfo, system: Sequence[pa.Array], columns: Columns, physical: Ints, order: Ints
) -> list[VersionBatch]:
    """Build version batches from unsorted columns: rows in `order`, one batch per partition."""
    schema = version_schema(handle_type(table), [(i, c.type) for i, c in columns.items()])
    batches = []
    for physical_id in np.unique(physical):
        indices = order[physical[order] == physical_id]
        arrays = list(map(pa.array, [*system, *columns.values()]))
        if not np.array_equal(indices, np.arange(len(physical))):
            arrays = [pc.take(array, pa.array(indices)) for array in arrays]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        batches.append(VersionBatch(PhysicalTableID(int(physical_id)), batch))
    return batches


def _last_of_each(
    handles: pa.Array, physical: Ints, commit_ts: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """Mark the last version of each (handle, physical, commit_ts); the input is sorted by these."""
    last = np.ones(len(handles), np.bool_)
    if len(handles) > 1:
        same = np.asarray(pc.equal(handles.slice(0, len(handles) - 1), handles.slice(1)))
        same = same & (physical[1:] == physical[:-1]) & (commit_ts[1:] == commit_ts[:-1])
        last[:-1] = ~same
    return last


def _spread(
    values: Sequence[int], sequences: Sequence[npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint64]:
    """Repeat one value per transaction for each of its rows."""
    return np.repeat(np.array(values, np.uint64), [len(s) for s in sequences])


def _to_int_handle(values: pa.Array) -> pa.Array:
    """Convert a primary key column to handles; unsigned values are reinterpreted as int64."""
    if pa.types.is_uint64(values.type):
        return pa.array(values.to_numpy().view(np.int64))
    return values.cast(pa.int64())
