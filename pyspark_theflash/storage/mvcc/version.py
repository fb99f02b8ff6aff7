"""Row versions: the state of a row as of one commit.

In an Arrow batch, the system columns come first, then the table's columns, named by TiDB column id,
so that renaming a column does not change stored data:

    _handle     int64 | binary   identity in a physical table; unsigned handles as int64 bits
    _commit_ts  uint64           the commit timestamp
    _start_ts   uint64           the transaction; commit_ts alone is not unique
    _op         uint8            DELETE 0, PUT 1; a delete's columns are null
    c1, c2 ...                   one per column, `tidb.codec.arrow.arrow_type`
    a1, a2 ...        bool       absence mask: true where the row does not contain the column, which
                                 is null there; omitted if all rows of the batch have the column

Stored files have one more, `_superseded_ts` (uint64): the smallest commit_ts above the version's
own of the same row, among the versions available to the file's writer, or MAX_TS.
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
    """Operation of a version."""

    DELETE = 0
    PUT = 1


def absence(column_id: ColumnID) -> ColumnID:
    """Return the id of a column's absence mask, or the reverse."""
    return ColumnID(~column_id)


def column_name(column_id: ColumnID) -> str:
    """Return the stored name of a TiDB column, or of an absence mask."""
    return f"c{column_id}" if column_id >= 0 else f"a{~column_id}"


def column_id(name: str) -> ColumnID:
    """Return the column id of a stored name; inverse of `column_name`."""
    number = ColumnID(int(name[1:]))
    return absence(number) if is_absence(name) else number


def is_absence(name: str) -> bool:
    """Return whether a stored name is that of an absence mask."""
    return name.startswith("a")


def absence_name(name: str) -> str:
    """Return the stored name of a column's absence mask, or the reverse."""
    return ("c" if is_absence(name) else "a") + name[1:]


def version_schema(
    handle: pa.DataType, columns: Sequence[tuple[ColumnID, pa.DataType]]
) -> pa.Schema:
    """Return the schema of a batch of versions of a table with these columns."""
    system = [
        pa.field(HANDLE, handle, nullable=False),
        pa.field(COMMIT_TS, pa.uint64(), nullable=False),
        pa.field(START_TS, pa.uint64(), nullable=False),
        pa.field(OP, pa.uint8(), nullable=False),
    ]
    return pa.schema(system + [pa.field(column_name(i), tp) for i, tp in columns])
