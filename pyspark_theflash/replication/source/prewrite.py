"""A prewrite's changes: per table, lists of encoded rows and the order they happened in.

    inserted   handle datums, then the new row       [I1, I2]
    updated    the old row, then the new row         [U1]
    deleted    the old row                           [D1]
    sequence   Insert Update Insert DeleteRow        meaning I1, U1, I2, D1

Each list is one cursor; `sequence` says which one moves next. Rows stay encoded: `codec` knows
their format, and the table's schema as of `schema_version` is needed to read them.
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
    """What one transaction does to one logical table.

    Invariant: `sequence` (uint8) holds INSERT, UPDATE and DELETE_ROW only, each as often as its
    list is long.
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
    """Raises `CodecError` for anything but current mutations, whole: no change is skipped."""
    value = decode_prewrite_value(payload)
    if has_unknown_fields(value):
        raise CodecError(_LAYER, "fields of an unknown kind")
    mutations = tuple(_table_mutations(mutation) for mutation in value.mutations)
    return Prewrite(SchemaVersion(value.schema_version), mutations)


def _table_mutations(message: TableMutation) -> TableMutations:
    if message.deleted_ids or message.deleted_pks or has_unknown_fields(message):
        reason = f"changes of table {message.table_id} of an obsolete or unknown kind"
        raise CodecError(_LAYER, reason)
    inserted, updated = message.inserted_rows[:], message.updated_rows[:]
    deleted = message.deleted_rows[:]
    kinds = bytes(message.sequence[:])
    counts = kinds.count(INSERT), kinds.count(UPDATE), kinds.count(DELETE_ROW)
    lengths = len(inserted), len(updated), len(deleted)
    if counts != lengths or sum(counts) != len(kinds):
        reason = f"sequence of table {message.table_id} has {counts} for {lengths} rows"
        raise CodecError(_LAYER, reason)
    sequence = np.frombuffer(kinds, np.uint8)
    return TableMutations(TableID(message.table_id), inserted, updated, deleted, sequence)
