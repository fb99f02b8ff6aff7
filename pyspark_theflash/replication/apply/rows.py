"""Convert committed rows in TiKV's format to version batches of the engine."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.replication.apply.versions import Versions, concat
from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.storage.mvcc.rows import (
    Columns,
    aligned,
    column_specs,
    from_int_handle,
    handle_type,
    held_columns,
    stored_columns,
)
from pyspark_theflash.storage.mvcc.version import Op, absence, column_name, version_schema
from pyspark_theflash.storage.mvcc.visibility import same_as_next
from pyspark_theflash.tidb.codec.array import binary, join_bytes, take, variable_width
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.checksum import RecordKeys
from pyspark_theflash.tidb.codec.handle import decode_common_handles
from pyspark_theflash.tidb.codec.key import encode_record_key
from pyspark_theflash.tidb.codec.reader import Positions
from pyspark_theflash.tidb.codec.row import DecodedRows, RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_rows_v1
from pyspark_theflash.tidb.codec.row_v2 import VERSION, decode_rows_v2, has_checksums
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

CHUNK_ROWS: Final = 1 << 15
"""The number of rows decoded at once; some megabytes, which fit the CPU cache."""


def by_table(
    chunks: Iterable[Versions], tables: PhysicalTables
) -> Iterator[tuple[PhysicalTableID, Versions]]:
    """Yield the versions of each replicated physical table, sorted by (handle, commit_ts).

    Of duplicates with the same handle and commit_ts, the first is used.
    """
    every = list(chunks)
    for is_common in (False, True):
        chosen = [chunk for chunk in every if chunk.has_common_handles is is_common]
        if not chosen:
            continue
        versions = concat(chosen)
        order = np.argsort(versions.table_id, kind="stable")
        ids, starts = np.unique(versions.table_id[order], return_index=True)
        ends = [*starts[1:], len(order)]
        for table_id, start, end in zip(ids.tolist(), starts, ends, strict=True):
            physical_id = PhysicalTableID(table_id)
            if tables.has(physical_id):
                yield physical_id, _sorted(versions.select(order[start:end]))


def _sorted(versions: Versions) -> Versions:
    order = _order(versions)
    handles, commit_ts = versions.handles.take(pa.array(order)), versions.commit_ts[order]
    first = np.ones(len(order), np.bool_)
    if len(order) > 1:
        first[1:] = ~(same_as_next(handles) & (commit_ts[1:] == commit_ts[:-1]))
    return versions.select(order[first])


def _order(versions: Versions) -> Positions:
    if not versions.has_common_handles:
        return np.lexsort((versions.commit_ts, versions.handles.to_numpy()))
    # Sort by position last, because `sort_indices` does not guarantee a stable sort.
    place = pa.array(np.arange(len(versions)))
    columns = {"handle": versions.handles, "commit_ts": versions.commit_ts, "place": place}
    keys = [(name, "ascending") for name in columns]
    order = pc.sort_indices(pa.table(columns), sort_keys=keys)
    return np.asarray(order.to_numpy(), np.int64)


def newest_places(versions: Versions) -> Positions:
    """Return the positions of the newest version of each row of one table, sorted by handle.

    Of duplicates with the same handle and commit_ts, any is returned.
    """
    order = _order(versions)
    if len(order) > 1:
        is_last = np.ones(len(order), np.bool_)
        is_last[:-1] = ~same_as_next(versions.handles.take(pa.array(order)))
        order = order[is_last]
    return order


def version_batches(
    physical_id: PhysicalTableID, versions: Versions, tables: PhysicalTables
) -> Iterator[VersionBatch]:
    """Decode sorted versions of one physical table to one batch per definition, by time.

    Raises:
        CodecError: A row is malformed.
        SchemaOutdatedError: The schema history does not contain a row's definition.
    """
    for table, places in tables.definitions(physical_id, versions.commit_ts):
        chosen = versions if len(places) == len(versions) else versions.select(places)
        yield VersionBatch(physical_id, decode_versions(physical_id, chosen, table))


def decode_versions(
    physical_id: PhysicalTableID,
    versions: Versions,
    table: TableInfo,
    names: Collection[str] | None = None,
) -> pa.RecordBatch:
    """Decode versions written under one definition, in their order; see `storage.mvcc.version`.

    `names` are the columns to decode, by their names in the batch; all if None.
    """
    infos = [c for c in stored_columns(table) if names is None or column_name(c.id) in names]
    if versions.has_common_handles != table.is_common_handle:
        raise CodecError("record key", f"{table.full_name} has handles of another type")
    parts = list(_chunks(versions))
    decoded = [_columns(physical_id, part, table, infos) for part in parts]
    columns = decoded[0] if len(parts) == 1 else aligned(decoded, list(map(len, parts)))
    schema = version_schema(handle_type(table), [(i, c.type) for i, c in columns.items()])
    system = map(pa.array, (versions.commit_ts, versions.start_ts, versions.op))
    arrays = [versions.handles, *system, *columns.values()]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _chunks(versions: Versions) -> Iterator[Versions]:
    if len(versions) <= CHUNK_ROWS:
        yield versions
        return
    for start in range(0, len(versions), CHUNK_ROWS):
        yield versions.select(np.arange(start, min(start + CHUNK_ROWS, len(versions))))


def _columns(
    physical_id: PhysicalTableID,
    versions: Versions,
    table: TableInfo,
    infos: Sequence[ColumnInfo],
) -> Columns:
    """Decode columns by id; null for deletes; with absence columns where rows omit a value."""
    puts = np.flatnonzero(versions.op == Op.PUT)
    if not len(puts):
        return {c.id: pa.nulls(len(versions), arrow_type(c.type)) for c in infos}
    rows = versions if len(puts) == len(versions) else versions.select(puts)
    decoded = _decoded(physical_id, rows, table, infos)
    ids = {i for c in infos for i in (c.id, absence(c.id))}
    columns = {i: values for i, values in decoded.items() if i in ids}
    if len(puts) == len(versions):
        return columns
    places = np.full(len(versions), -1, np.int64)
    places[puts] = np.arange(len(puts))
    spread = {i: take(values, places) for i, values in columns.items()}
    return {i: values if i >= 0 else pc.fill_null(values, False) for i, values in spread.items()}


def _decoded(
    physical_id: PhysicalTableID,
    rows: Versions,
    table: TableInfo,
    infos: Sequence[ColumnInfo],
) -> Columns:
    """Decode the columns of puts, by id: at least those of `infos`."""
    data, bounds = variable_width(rows.values)
    if (np.diff(bounds) < 1).any():
        raise CodecError("row", f"empty row of {table.full_name}")
    if has_checksums(data, bounds):
        # A checksum covers all columns.
        infos = stored_columns(table)
    from_key = _from_key(table, rows.handles, infos)
    is_new = data[bounds[:-1]] == VERSION
    ts = TimeStamp(int(rows.commit_ts[0]))
    if is_new.all():
        decoded = _decode_v2(physical_id, rows, table, infos)
        return held_columns(table, infos, decoded, from_key, ts)
    parts: list[Columns] = []
    order: list[npt.NDArray[np.int64]] = []
    for places in (np.flatnonzero(is_new), np.flatnonzero(~is_new)):
        if not len(places):
            continue
        chosen = rows.select(places)
        decoded = (
            _decode_v2(physical_id, chosen, table, infos)
            if is_new[places[0]]
            else decode_rows_v1(RowBuffer.from_arrow(chosen.values), column_specs(table, infos))
        )
        key = {i: column.take(pa.array(places)) for i, column in from_key.items()}
        parts.append(held_columns(table, infos, decoded, key, ts))
        order.append(places)
    back = pa.array(np.argsort(np.concatenate(order)))
    columns = aligned(parts, list(map(len, order)))
    return {i: values.take(back) for i, values in columns.items()}


def _decode_v2(
    physical_id: PhysicalTableID, rows: Versions, table: TableInfo, infos: Sequence[ColumnInfo]
) -> DecodedRows:
    key = column_specs(table, table.handle_columns)
    raw = RowBuffer.from_arrow(_raw_keys(physical_id, rows.handles))
    specs = column_specs(table, infos)
    return decode_rows_v2(RowBuffer.from_arrow(rows.values), specs, RecordKeys(raw, key))


def _raw_keys(physical_id: PhysicalTableID, handles: pa.Array) -> pa.Array:
    """Encode the record keys of rows."""
    prefix = encode_record_key(physical_id, b"")
    if pa.types.is_binary(handles.type):
        return join_bytes(bytes(prefix), handles)
    keys = np.empty((len(handles), len(prefix) + 8), np.uint8)
    keys[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    bits = handles.to_numpy().view(np.uint64) ^ np.uint64(1 << 63)
    keys[:, len(prefix) :] = bits.astype(">u8").view(np.uint8).reshape(-1, 8)
    return binary(keys.reshape(-1), np.arange(len(handles) + 1) * keys.shape[1])


def _from_key(table: TableInfo, handles: pa.Array, infos: Sequence[ColumnInfo]) -> Columns:
    """Decode the handle columns, which rows may omit, from the handles.

    Columns whose keys contain collation weights or prefixes are not included: rows contain them.
    """
    if table.pk_is_handle:
        return {c.id: from_int_handle(handles, c) for c in table.handle_columns}
    columns = table.handle_columns
    if not table.is_common_handle or {c.id for c in columns}.isdisjoint(c.id for c in infos):
        return {}
    values = decode_common_handles(handles, [c.type for c in columns])
    lengths: Sequence[int] = (
        [p.length for p in table.primary_key.columns] if table.primary_key else []
    )
    return {
        c.id: value
        for c, value, length in zip(columns, values, lengths, strict=True)
        if length < 0 and value.type == arrow_type(c.type)
    }
