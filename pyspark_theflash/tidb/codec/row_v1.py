"""Row format v1: a run of (column id, value) datums, in TiDB's binlog and older tables.

    row               08 varint(column id) flag value | 08 varint(column id) flag value | ...
    no columns        a single 00
    inserted row      handle datum(s), then a row
    updated row       the old row, then the new row, with nothing between

Columns come in the table's order, which need not be the order of their ids; NULLs may be left out.
The updated and deleted rows of a table whose rows have a `_tidb_rowid` end with it, as column -1.
As in TiDB's `tablecodec.EncodeOldRow` and `table/tables/tables.go` (`addInsertBinlog`,
`addUpdateBinlog`).

How a batch is decoded
----------------------

One cursor a row. At each step every row reads one pair. Most often all rows meet the same column id
and the same flag, which one masked comparison of the first eight bytes shows; otherwise the rows
are parted by (id, flag) and each part is read alone. Steps therefore are as many as a row has
columns, not as there are rows.

Where the new half of an update begins
--------------------------------------

TiDB writes both halves from one list of columns. So the new half begins at the first id that the
row has met before, and the id right before it, the last of the old half, must come again too. A
column in the middle may lack on either side; where the last id does not come again, nobody can tell
whose it is, and the row is refused.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.collation import is_bytewise
from pyspark_theflash.tidb.codec.column import Piece, PiecesByID, assemble, decode_pieces
from pyspark_theflash.tidb.codec.datum import DatumFlag, values_at
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.number import decode_varint, varints_at
from pyspark_theflash.tidb.codec.reader import Positions, Reader, Words, groups
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows, RowBuffer

if TYPE_CHECKING:
    from pyspark_theflash.tidb.codec.array import ArrowArray

_LAYER: Final = "row v1"
# TiDB's own limit of columns a table is 4096; an update holds each twice.
_MAX_PAIRS: Final = 2 * 4096
_ID_BITS: Final = 48
_INT_HANDLE: Final = ColumnSpec(ColumnID(-1), "handle", FieldType(MySQLType.LONGLONG))

Handles: TypeAlias = "ArrowArray | tuple[ArrowArray, ...]"


def decode_rows_v1(rows: RowBuffer, columns: Sequence[ColumnSpec]) -> DecodedRows:
    """Rows as they are in a deleted row of a binlog, or under a record key.

    Raises:
        CodecError: bytes that are no such rows.
    """
    reader = Reader(rows, _LAYER)
    return decode_pieces(reader, _pieces(reader, reader.starts.copy()), columns)


def decode_updates_v1(
    rows: RowBuffer, columns: Sequence[ColumnSpec]
) -> tuple[DecodedRows, DecodedRows]:
    """(old, new) out of updated rows of a binlog.

    Raises:
        CodecError: bytes that are no such rows, or a place of the new half that cannot be told.
    """
    reader = Reader(rows, _LAYER)
    old, new = _split(reader, _pieces(reader, reader.starts.copy()))
    return decode_pieces(reader, old, columns), decode_pieces(reader, new, columns)


def decode_inserts_v1(
    rows: RowBuffer, columns: Sequence[ColumnSpec], handle: Sequence[ColumnSpec]
) -> tuple[Handles, DecodedRows]:
    """(handles, rows) out of inserted rows of a binlog.

    With `handle` empty the handle is one integer: int64, the bits of an unsigned one too. Otherwise
    there is one array for each column of `handle`: a string column's is binary unless its collation
    compares bytes, since what the handle then holds are the collation's weights, not the string.

    Raises:
        CodecError: bytes that are no such rows, or a NULL in a handle.
    """
    reader = Reader(rows, _LAYER)
    reader.check(reader.starts < reader.ends, "no row", reader.starts)
    at = reader.starts
    handles = []
    for spec in map(_as_handle, handle or (_INT_HANDLE,)):
        pieces, at = _datums(reader, at)
        column = assemble(reader, spec, pieces, len(rows))
        reader.check(np.asarray(column.values.is_valid()), "a NULL in the handle", reader.starts)
        handles.append(column.values)
    decoded = decode_pieces(reader, _pieces(reader, at), columns)
    return (tuple(handles) if handle else handles[0]), decoded


def _as_handle(spec: ColumnSpec) -> ColumnSpec:
    """The column as a handle holds it: weights, where the collation does not compare bytes."""
    if spec.type.tp not in STRING_TYPES or is_bytewise(spec.type):
        return spec
    return replace(spec, type=replace(spec.type, charset="binary"))


def _pieces(reader: Reader, at: Positions) -> PiecesByID:
    """All pairs from the positions `at` to the rows' ends, by column id and as they were met.

    `at` is consumed.
    """
    rows: Positions = np.arange(len(at))
    limit = reader.ends
    reader.check(at < limit, "no row", reader.starts)
    left = (at + 1 != limit) | (reader.bytes_at(at) != DatumFlag.NULL)
    result: dict[ColumnID, list[Piece]] = defaultdict(list)
    for step in range(_MAX_PAIRS):
        if not left.all():
            rows, at, limit = rows[left], at[left], limit[left]
        if not len(rows):
            return result
        for column_id, flag, members, value_at, words in _heads(reader, at, limit):
            part = slice(None) if members is None else members
            values = values_at(reader, flag, value_at, limit[part], words)
            at[part] = values.end
            result[column_id].append(Piece(rows[part], values, step))
        if step >= 2 * len(result):
            raise reader.error("a column for the third time", int(at[0]) - 1)
        left = at < limit
    raise reader.error(f"more than {_MAX_PAIRS} columns", int(at[0]))


def _heads(
    reader: Reader, at: Positions, limit: Positions
) -> Iterator[tuple[ColumnID, int, Positions | None, Positions, Words | None]]:
    """Column id, flag, indices into `at` (None: all), places and bytes behind the flags."""
    words = reader.words_at(at)
    shared = _shared_head(words)
    if shared is not None:
        column_id, flag, size = shared
        value_at = at + size
        reader.check_ends(value_at, limit, at)
        beyond = ~np.uint64(0) << np.uint64(8 * (8 - size))
        yield column_id, flag, None, value_at, words >> np.uint64(8 * size) | beyond
        return
    reader.check((words & np.uint64(0xFF)) == DatumFlag.VARINT, "no column id", at)
    ids, flag_at = varints_at(reader, at + 1, limit)
    possible = (ids > -(1 << _ID_BITS)) & (ids < 1 << _ID_BITS)
    reader.check(possible, "an impossible column id", at)
    reader.check_ends(flag_at + 1, limit, at)
    for key, members in groups(ids << 8 | reader.bytes_at(flag_at)):
        yield ColumnID(key >> 8), key & 0xFF, members, flag_at[members] + 1, None


def _shared_head(words: Words) -> tuple[ColumnID, int, int] | None:
    """(column id, flag, size) if all rows' next bytes hold the same ones, and short ones."""
    first = int(words[0]).to_bytes(8, "little")
    if first[0] != DatumFlag.VARINT:
        return None
    try:
        column_id, flag_at = decode_varint(first[:7], 1)
    except CodecError:
        return None
    mask = np.uint64((1 << 8 * (flag_at + 1)) - 1)
    if ((words ^ words[0]) & mask).any():
        return None
    return ColumnID(column_id), first[flag_at], flag_at + 1


def _datums(reader: Reader, at: Positions) -> tuple[list[Piece], Positions]:
    """One datum of each row, and the positions behind them."""
    reader.check_ends(at + 1, reader.ends, at)
    pieces, after = [], at.copy()
    for flag, members in groups(reader.bytes_at(at).astype(np.int64)):
        values = values_at(reader, flag, at[members] + 1, reader.ends[members])
        after[members] = values.end
        pieces.append(Piece(members, values))
    return pieces, after


def _split(reader: Reader, found: PiecesByID) -> tuple[PiecesByID, PiecesByID]:
    """The pieces of the old and of the new half of updated rows."""
    row_count = len(reader.starts)
    split = np.full(row_count, _MAX_PAIRS)
    times: dict[ColumnID, npt.NDArray[np.uint8]] = {}
    for column_id, pieces in found.items():
        met = times[column_id] = np.zeros(row_count, np.uint8)
        for piece in pieces:
            again = piece.rows[met[piece.rows] > 0]
            split[again] = np.minimum(split[again], piece.step)
            met[piece.rows] = np.minimum(met[piece.rows] + 1, 2)
    reader.check(split < _MAX_PAIRS, "an update without a new row", reader.starts)
    old: dict[ColumnID, list[Piece]] = defaultdict(list)
    new: dict[ColumnID, list[Piece]] = defaultdict(list)
    for column_id, pieces in found.items():
        for piece in pieces:
            begin = split[piece.rows]
            last_is_sure = (begin != piece.step + 1) | (times[column_id][piece.rows] == 2)
            reason = "a column of which cannot be told whether it is old or new"
            reader.check(last_is_sure, reason, piece.values.start - 1)
            for half, members in ((old, begin > piece.step), (new, begin <= piece.step)):
                if members.all():
                    half[column_id].append(piece)
                elif members.any():
                    half[column_id].append(piece.take(np.flatnonzero(members)))
    return old, new
