"""A row version: one state of one row, from one commit on.

As an Arrow batch, the system columns first, then the table's columns named by their TiDB column id,
so that renames never touch stored data:

    _handle     int64 | binary   identity within a physical table; int64 holds unsigned bits, too
    _commit_ts  uint64           from when the version holds
    _start_ts   uint64           which transaction wrote it; commit_ts alone is not unique
    _op         uint8            DELETE 0, PUT 1; a delete's columns are null
    c1, c2 ...                   one per column, `codec.arrow.arrow_type`

Stored files carry one more, `_superseded_ts` (uint64): the smallest commit_ts above the version's
own of the same row that the file's writer knew of, or MAX_TS.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import pyarrow as pa

from pyspark_theflash.types import ColumnID

HANDLE: Final = "_handle"
COMMIT_TS: Final = "_commit_ts"
START_TS: Final = "_start_ts"
OP: Final = "_op"
SUPERSEDED_TS: Final = "_superseded_ts"


class Op(IntEnum):
    """What a version does to its row."""

    DELETE = 0
    PUT = 1


def column_name(column_id: ColumnID) -> str:
    """The name of a TiDB column inside the store."""
    return f"c{column_id}"


def version_schema(
    handle: pa.DataType, columns: Sequence[tuple[ColumnID, pa.DataType]]
) -> pa.Schema:
    """The schema of a batch of versions of a table with these columns."""
    system = [
        pa.field(HANDLE, handle, nullable=False),
        pa.field(COMMIT_TS, pa.uint64(), nullable=False),
        pa.field(START_TS, pa.uint64(), nullable=False),
        pa.field(OP, pa.uint8(), nullable=False),
    ]
    return pa.schema(system + [pa.field(column_name(i), tp) for i, tp in columns])
