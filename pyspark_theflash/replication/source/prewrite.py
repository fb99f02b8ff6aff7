"""Changes of a prewrite: encoded rows per table, and the order of the changes.

    inserted   handle datums, then the new row       [I1, I2]
    updated    the old row, then the new row         [U1]
    deleted    the old row                           [D1]
    sequence   Insert Update Insert DeleteRow        means I1, U1, I2, D1

Each entry of `sequence` takes the next row of the list it names. Rows stay encoded: decoding them
with `tidb.codec` takes the table's schema at `schema_version`.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import SchemaVersion, TableID
from pyspark_theflash.replication.source.wire import (
    TableMutation,
    decode_prewrite_value,
    has_unknown_fields,
)

INSERT: Final = 0
UPDATE: Final = 1
DELETE_ROW: Final = 4
_LAYER: Final = "prewrite value"


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
    value = decode_prewrite_value(payload)
    if has_unknown_fields(value):
        raise CodecError(_LAYER, "unknown fields")
    mutations = tuple(_table_mutations(mutation) for mutation in value.mutations)
    return Prewrite(SchemaVersion(value.schema_version), mutations)


def _table_mutations(message: TableMutation) -> TableMutations:
    if message.deleted_ids or message.deleted_pks or has_unknown_fields(message):
        reason = f"table {message.table_id} has changes of an obsolete or unknown kind"
        raise CodecError(_LAYER, reason)
    inserted, updated = message.inserted_rows[:], message.updated_rows[:]
    deleted = message.deleted_rows[:]
    kinds = bytes(message.sequence[:])
    counts = kinds.count(INSERT), kinds.count(UPDATE), kinds.count(DELETE_ROW)
    lengths = len(inserted), len(updated), len(deleted)
    if counts != lengths or sum(counts) != len(kinds):
        reason = f"table {message.table_id}: sequence has {counts} changes for {lengths} rows"
        raise CodecError(_LAYER, reason)
    sequence = np.frombuffer(kinds, np.uint8)
    return TableMutations(TableID(message.table_id), inserted, updated, deleted, sequence)
