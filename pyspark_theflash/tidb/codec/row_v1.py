"""Row format v1: a sequence of (column id, value) datums, in TiDB's binlog and older tables.

    row               08 varint(column id) flag value | 08 varint(column id) flag value | ...
    no columns        a single 00
    inserted row      handle datum(s), then a row
    updated row       the old row, then the new row, with nothing between

Columns are in the table's order, which may differ from the order of their ids; NULLs may be
omitted. In updated and deleted rows of a table with `_tidb_rowid`, this id is the last column, with
column id -1. See TiDB's `tablecodec.EncodeOldRow` and `table/tables/tables.go` (`addInsertBinlog`,
`addUpdateBinlog`).

How a batch is decoded
----------------------

Each row has a cursor. In each step every row reads one pair. Usually all rows have the same column
id and flag, which one masked comparison of the first eight bytes detects; otherwise the rows are
grouped by (id, flag) and each group is read separately. The number of steps is the number of
columns in a row.

How an update is split
----------------------

TiDB writes both halves of an update from the same list of columns. So the new half begins at the
first column id that repeats, and the id right before it, the last one of the old half, must repeat
too. Other columns may be missing in one of the halves. If the last id does not repeat, it may
belong to either half, and the row is rejected.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.collation import is_bytewise
from pyspark_theflash.tidb.codec.column import Piece, PiecesByID, assemble, decode_pieces
from pyspark_theflash.tidb.codec.datum import DatumFlag, values_at
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.number import decode_varint, varints_at
from pyspark_theflash.tidb.codec.reader import Positions, Reader, Words, groups
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows, RowBuffer

_LAYER: Final = "row v1"
# TiDB limits a table to 4096 columns; an update holds each of them twice.
_MAX_PAIRS: Final = 2 * 4096
_ID_BITS: Final = 48
_INT_HANDLE: Final = ColumnSpec(ColumnID(-1), "handle", FieldType(MySQLType.LONGLONG))

Handles: TypeAlias = pa.Array | tuple[pa.Array, ...]


def decode_rows_v1(rows: RowBuffer, columns: Sequence[ColumnSpec]) -> DecodedRows:
    """Decode rows of TiKV, or deleted rows of a binlog. Raises `CodecError`: A row is invalid."""
    reader = Reader(rows, _LAYER)
    return decode_pieces(reader, _read_pairs(reader, reader.starts.copy()), columns)


def decode_updates_v1(
    rows: RowBuffer, columns: Sequence[ColumnSpec]
) -> tuple[DecodedRows, DecodedRows]:
    """Decode updated rows of a binlog into old and new rows. Raises `CodecError`."""
    reader = Reader(rows, _LAYER)
    old, new = _split_updates(reader, _read_pairs(reader, reader.starts.copy()))
    return decode_pieces(reader, old, columns), decode_pieces(reader, new, columns)


def decode_inserts_v1(
    rows: RowBuffer, columns: Sequence[ColumnSpec], handle: Sequence[ColumnSpec]
) -> tuple[Handles, DecodedRows]:
    """Decode inserted rows of a binlog into handles and rows.

    `handle` has the columns of the common handle; if it is empty, the handle is an integer. Integer
    handles are int64, with the same bits for unsigned ones. Common handles are one array per
    column; strings are binary unless their collation is bytewise, since handles then hold weights.

    Raises:
        CodecError: A row is invalid, or a handle contains NULL.
    """
    reader = Reader(rows, _LAYER)
    reader.check(reader.starts < reader.ends, "empty row", reader.starts)
    at = reader.starts
    handles = []
    for spec in map(_handle_spec, handle or (_INT_HANDLE,)):
        pieces, at = _read_datums(reader, at)
        column = assemble(reader, spec, pieces, len(rows))
        reader.check(np.asarray(column.values.is_valid()), "NULL in the handle", reader.starts)
        handles.append(column.values)
    decoded = decode_pieces(reader, _read_pairs(reader, at), columns)
    return (tuple(handles) if handle else handles[0]), decoded


def _handle_spec(spec: ColumnSpec) -> ColumnSpec:
    """Return a column as stored in a handle: binary weights unless the collation is bytewise."""
    if spec.type.tp not in STRING_TYPES or is_bytewise(spec.type):
        return spec
    return replace(spec, type=replace(spec.type, charset="binary"))


def _read_pairs(reader: Reader, at: Positions) -> PiecesByID:
    """Read all pairs from the positions `at` to the ends of the rows, by column id and in order.

    `at` is modified.
    """
    rows: Positions = np.arange(len(at))
    limit = reader.ends
    reader.check(at < limit, "empty row", reader.starts)
    is_unfinished = (at + 1 != limit) | (reader.bytes_at(at) != DatumFlag.NULL)
    result: dict[ColumnID, list[Piece]] = defaultdict(list)
    for step in range(_MAX_PAIRS):
        if not is_unfinished.all():
            rows, at, limit = rows[is_unfinished], at[is_unfinished], limit[is_unfinished]
        if not len(rows):
            return result
        for column_id, flag, members, value_at, words in _read_heads(reader, at, limit):
            part = slice(None) if members is None else members
            values = values_at(reader, flag, value_at, limit[part], words)
            at[part] = values.end
            result[column_id].append(Piece(rows[part], values, step))
        if step >= 2 * len(result):
            raise reader.error("third occurrence of a column", int(at[0]) - 1)
        is_unfinished = at < limit
    raise reader.error(f"more than {_MAX_PAIRS} columns", int(at[0]))


def _read_heads(
    reader: Reader, at: Positions, limit: Positions
) -> Iterator[tuple[ColumnID, int, Positions | None, Positions, Words | None]]:
    """Read column ids and flags, grouped by both.

    Yields:
        Column id, flag, the group's indices into `at` (None: all), the positions of its values, and
        the first bytes of the values if they are already loaded.
    """
    words = reader.words_at(at)
    shared = _shared_head(words)
    if shared is not None:
        column_id, flag, size = shared
        value_at = at + size
        reader.check_ends(value_at, limit, at)
        beyond = ~np.uint64(0) << np.uint64(8 * (8 - size))
        yield column_id, flag, None, value_at, words >> np.uint64(8 * size) | beyond
        return
    reader.check((words & np.uint64(0xFF)) == DatumFlag.VARINT, "missing column id", at)
    ids, flag_at = varints_at(reader, at + 1, limit)
    in_range = (ids > -(1 << _ID_BITS)) & (ids < 1 << _ID_BITS)
    reader.check(in_range, "column id out of range", at)
    reader.check_ends(flag_at + 1, limit, at)
    for key, members in groups(ids << 8 | reader.bytes_at(flag_at)):
        yield ColumnID(key >> 8), key & 0xFF, members, flag_at[members] + 1, None


def _shared_head(words: Words) -> tuple[ColumnID, int, int] | None:
    """Return the (column id, flag, size) of all rows' next pairs, or None if they differ."""
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


def _read_datums(reader: Reader, at: Positions) -> tuple[list[Piece], Positions]:
    """Read one datum of each row; also return the end positions."""
    reader.check_ends(at + 1, reader.ends, at)
    pieces, ends = [], at.copy()
    for flag, members in groups(reader.bytes_at(at).astype(np.int64)):
        values = values_at(reader, flag, at[members] + 1, reader.ends[members])
        ends[members] = values.end
        pieces.append(Piece(members, values))
    return pieces, ends


def _split_updates(reader: Reader, all_pieces: PiecesByID) -> tuple[PiecesByID, PiecesByID]:
    """Split the pieces of updated rows into old and new half."""
    row_count = len(reader.starts)
    split = np.full(row_count, _MAX_PAIRS)
    counts: dict[ColumnID, npt.NDArray[np.uint8]] = {}
    for column_id, pieces in all_pieces.items():
        count = counts[column_id] = np.zeros(row_count, np.uint8)
        for piece in pieces:
            repeats = piece.rows[count[piece.rows] > 0]
            split[repeats] = np.minimum(split[repeats], piece.step)
            count[piece.rows] = np.minimum(count[piece.rows] + 1, 2)
    reader.check(split < _MAX_PAIRS, "an update without a new row", reader.starts)
    old: dict[ColumnID, list[Piece]] = defaultdict(list)
    new: dict[ColumnID, list[Piece]] = defaultdict(list)
    for column_id, pieces in all_pieces.items():
        for piece in pieces:
            begin = split[piece.rows]
            is_clear = (begin != piece.step + 1) | (counts[column_id][piece.rows] == 2)
            reason = "ambiguous column, of the old or new half of an update"
            reader.check(is_clear, reason, piece.values.start - 1)
            for half, members in ((old, begin > piece.step), (new, begin <= piece.step)):
                if members.all():
                    half[column_id].append(piece)
                elif members.any():
                    half[column_id].append(piece.take(np.flatnonzero(members)))
    return old, new
