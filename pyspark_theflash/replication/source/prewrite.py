"""Changes of a prewrite: encoded rows per table, and the order of the changes.

    inserted   handle datums, then the new row       [I1, I2]
    updated    the old row, then the new row         [U1]
    deleted    the old row                           [D1]
    sequence   Insert Update Insert DeleteRow        means I1, U1, I2, D1

Each entry of `sequence` takes the next row of the list it names. Rows stay encoded: decoding them
with `tidb.codec` takes the table's schema at `schema_version`.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import SchemaVersion, TableID
from pyspark_theflash.replication.source.event import Entity
from pyspark_theflash.replication.source.wire import (
    PrewriteValue,
    TableMutation,
    decode_entities,
    decode_prewrite_value,
    has_unknown_fields,
)
from pyspark_theflash.tidb.codec.datum import DatumFlag

INSERT: Final = 0
UPDATE: Final = 1
DELETE_ROW: Final = 4
_LAYER: Final = "prewrite value"
# A column id, or a row without columns.
_ROW_STARTS: Final = frozenset((bytes([DatumFlag.VARINT]), bytes([DatumFlag.NULL])))


@dataclass(frozen=True, slots=True, eq=False)
class TableMutations:
    """Changes of one transaction to one logical table.

    Invariant: `sequence` (uint8) contains only INSERT, UPDATE and DELETE_ROW, each as often as its
    list has rows.
    """

    table_id: TableID
    inserted: list[bytes] = field(repr=False)
    updated: list[bytes] = field(repr=False)
    deleted: list[bytes] = field(repr=False)
    sequence: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Prewrite:
    """All changes of one transaction."""

    schema_version: SchemaVersion
    mutations: tuple[TableMutations, ...]


def parse_prewrite(payload: bytes) -> Prewrite:
    """Decode a payload; raise `CodecError` rather than skip a change of an unknown kind."""
    value = _prewrite_value(payload)
    mutations = tuple(_table_mutations(mutation) for mutation in value.mutations)
    return Prewrite(SchemaVersion(value.schema_version), mutations)


def check_message(payload: bytes, place: str) -> Entity:
    """Check all of a binlog message that does not need the schema.

    Return its last entity, without the changes.

    Raises:
        BinlogCorruptionError, UnsupportedError: See `decode_entities`; `place` is the file.
        CodecError: The changes are not as `parse_prewrite` reads them, or a row has no columns.
    """
    entities = decode_entities(payload, place, 0)
    for entity in entities:
        check_changes(entity.payload)
    return replace(entities[-1], payload=b"")


def check_changes(payload: bytes) -> None:
    """Raise `CodecError` if `parse_prewrite` cannot read a payload, or a row has no columns."""
    if payload:
        for mutation in _prewrite_value(payload).mutations:
            _sequence(mutation)
            _check_rows(mutation)


def _prewrite_value(payload: bytes) -> PrewriteValue:
    value = decode_prewrite_value(payload)
    if has_unknown_fields(value):
        raise CodecError(_LAYER, "unknown fields")
    return value


def _check_rows(message: TableMutation) -> None:
    """Raise `CodecError` if a row does not begin as `tidb.codec.row_v1` describes."""
    first = {row[:1] for row in message.inserted_rows}
    in_full = {row[:1] for rows in (message.updated_rows, message.deleted_rows) for row in rows}
    if message.table_id <= 0 or b"" in first or not in_full <= _ROW_STARTS:
        raise CodecError(_LAYER, f"table {message.table_id}: a row has no columns")


def _table_mutations(message: TableMutation) -> TableMutations:
    sequence = np.frombuffer(_sequence(message), np.uint8)
    rows = message.inserted_rows[:], message.updated_rows[:], message.deleted_rows[:]
    return TableMutations(TableID(message.table_id), *rows, sequence)


def _sequence(message: TableMutation) -> bytes:
    """Return the order of the changes; raise `CodecError` if it does not match the rows."""
    if message.deleted_ids or message.deleted_pks or has_unknown_fields(message):
        reason = f"table {message.table_id} has changes of an obsolete or unknown kind"
        raise CodecError(_LAYER, reason)
    kinds = bytes(message.sequence[:])
    counts = kinds.count(INSERT), kinds.count(UPDATE), kinds.count(DELETE_ROW)
    rows = message.inserted_rows, message.updated_rows, message.deleted_rows
    lengths = len(rows[0]), len(rows[1]), len(rows[2])
    if counts != lengths or sum(counts) != len(kinds):
        reason = f"table {message.table_id}: sequence has {counts} changes for {lengths} rows"
        raise CodecError(_LAYER, reason)
    return kinds
