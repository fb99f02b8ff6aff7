"""A row version: one state of one row, from one commit on.

As an Arrow batch, the system columns first, then the table's columns named by their TiDB column id,
so that renames never touch stored data:

    _handle     int64 | binary   identity within a physical table; int64 holds unsigned bits, too
    _commit_ts  uint64           from when the version holds
    _start_ts   uint64           which transaction wrote it; commit_ts alone is not unique
    _op         uint8            DELETE 0, PUT 1; a delete's columns are null
    c1, c2 ...                   one per column, `tidb.codec.arrow.arrow_type`
    a1, a2 ...        bool       true where the row does not hold that column, which is null there;
                                 left out where all rows of the batch hold it

Stored files carry one more, `_superseded_ts` (uint64): the smallest commit_ts above the version's
own of the same row that the file's writer knew of, or MAX_TS.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.types import ColumnID

HANDLE: Final = "_handle"
COMMIT_TS: Final = "_commit_ts"
START_TS: Final = "_start_ts"
OP: Final = "_op"
SUPERSEDED_TS: Final = "_superseded_ts"


class Op(IntEnum):
    """What a version does to its row."""

    DELETE = 0
    PUT = 1


def absence(column_id: ColumnID) -> ColumnID:
    """The id of the column that tells which rows do not hold a TiDB column; its own inverse."""
    return ColumnID(~column_id)


def column_name(column_id: ColumnID) -> str:
    """The name inside the store of a TiDB column, or of the one that tells its absence."""
    return f"c{column_id}" if column_id >= 0 else f"a{~column_id}"


def column_id(name: str) -> ColumnID:
    """Inverse of `column_name`."""
    number = ColumnID(int(name[1:]))
    return absence(number) if is_absence(name) else number


def is_absence(name: str) -> bool:
    """Whether a column of the store tells the absence of another."""
    return name.startswith("a")


def absence_name(name: str) -> str:
    """The name of the column that tells the absence of the named one; its own inverse."""
    return ("c" if is_absence(name) else "a") + name[1:]


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
