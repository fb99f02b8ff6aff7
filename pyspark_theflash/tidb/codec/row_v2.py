"""Row format v2: column ids and end offsets, then the values; the format in TiKV since TiDB 4.

    u8 128 | u8 flags | u16 not-null count | u16 null count
    ids of not-null columns, sorted | ids of NULL columns, sorted
    end offsets of the not-null values | values | checksum

A small row has u8 ids and u16 offsets. A big row (flag 1) has u32 ids and u32 offsets, because an
id exceeds 255 or the values exceed 65535 bytes. A table may have rows of both kinds. All numbers
are little-endian, except floats and decimals.

    integers, times, ENUM, SET, BIT     1, 2, 4 or 8 bytes, as few as hold the value
    FLOAT, DOUBLE                       comparable, 8 bytes big-endian
    DECIMAL                             precision, fraction digits, binary
    strings                             the bytes
    JSON                                type, content: see `json`
    VECTOR                              u32 count, float32s

A checksum (flag 2) is described in `checksum`. See TiDB's `util/rowcodec`.

How a batch is decoded
----------------------

Rows with the same flags and counts have their ids and offsets at the same places, so these are read
as matrices with one column per row. Usually all rows have the same ids, and each row of the matrix
is a column of the table; otherwise the entries are sorted by id.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.checksum import EXTRA, Content, RecordKeys, check_checksums
from pyspark_theflash.tidb.codec.column import Piece, decode_pieces
from pyspark_theflash.tidb.codec.datum import Form, Values, form_of
from pyspark_theflash.tidb.codec.decimal import headers_at
from pyspark_theflash.tidb.codec.number import floats_from_comparable
from pyspark_theflash.tidb.codec.reader import Mask, Positions, Reader, groups
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows, RowBuffer

VERSION: Final = 128
_LAYER: Final = "row v2"
_HEADER_BYTES: Final = 6
_BIG, _CHECKSUM = 1, 2

_Matrix = npt.NDArray[np.int64]


def decode_rows_v2(
    rows: RowBuffer, columns: Sequence[ColumnSpec], keys: RecordKeys | None = None
) -> DecodedRows:
    """Decode rows of TiKV.

    Args:
        keys: The record keys of the rows, to check their checksums.

    Raises:
        CodecError: A row is invalid, or a checksum is wrong.
    """
    reader = Reader(rows, _LAYER)
    specs = {spec.id: spec for spec in columns}
    pieces: dict[ColumnID, list[Piece]] = defaultdict(list)
    with_checksum: list[tuple[Positions, Positions]] = []
    has_header = reader.ends - reader.starts >= _HEADER_BYTES
    reader.check(has_header, "row is shorter than its header", reader.starts)
    headers = reader.words_at(reader.starts).view(np.int64) & (1 << 8 * _HEADER_BYTES) - 1
    reader.check(headers & 0xFF == VERSION, f"row version is not {VERSION}", reader.starts)
    for header, members in groups(headers):
        ends = _read_group(reader, header >> 8, members, specs, pieces)
        if header >> 8 & _CHECKSUM:
            with_checksum.append((members, ends))
    decoded = decode_pieces(reader, pieces, columns)
    if with_checksum:
        members, ends = map(np.concatenate, zip(*with_checksum, strict=True))
        has_unknown = np.zeros(len(rows), np.bool_)
        for column_id in decoded.unknown_ids:
            for piece in pieces[column_id]:
                has_unknown[piece.rows] = True
        content = Content(columns, decoded.columns, has_unknown)
        check_checksums(reader, members, ends, content, keys)
    return decoded


def has_checksums(data: npt.NDArray[np.uint8], bounds: Positions) -> bool:
    """Whether any of the rows, cut from `data` at the n + 1 `bounds`, is in v2 with a checksum."""
    is_long = np.diff(bounds) >= _HEADER_BYTES
    at = bounds[:-1][is_long]
    return bool(((data[at] == VERSION) & (data[at + 1] & _CHECKSUM != 0)).any())


def _read_group(
    reader: Reader,
    header: int,
    rows: Positions,
    specs: dict[ColumnID, ColumnSpec],
    pieces: dict[ColumnID, list[Piece]],
) -> Positions:
    """Add the pieces of rows with the same flags and counts, and return where the values end."""
    flags, present, null = header & 0xFF, header >> 8 & 0xFFFF, header >> 24
    at = reader.starts[rows]
    if flags & ~(_BIG | _CHECKSUM):
        raise reader.error(f"unknown flags {flags:#x}", int(at[0]) + 1)
    id_size, offset_size = (4, 4) if flags & _BIG else (1, 2)
    ids_at = at + _HEADER_BYTES
    offsets_at = ids_at + (present + null) * id_size
    data_at = offsets_at + present * offset_size
    reader.check_ends(data_at, reader.ends[rows], ids_at)

    ids = reader.matrix_at(ids_at, present, id_size)
    null_ids = reader.matrix_at(ids_at + present * id_size, null, id_size)
    bounds = np.zeros((present + 1, len(rows)), np.int64)
    bounds[1:] = reader.matrix_at(offsets_at, present, offset_size)
    for numbers, step in ((ids, 1), (null_ids, 1), (bounds, 0)):
        ascends: Mask = np.logical_and.reduce(np.diff(numbers, axis=0) >= step, axis=0)
        reader.check(ascends, "column ids or offsets are not ascending", ids_at)
    bounds += data_at
    _check_end(reader, bounds[-1], reader.ends[rows], flags)

    for column_id, members, start, end in _by_id(ids, bounds[:-1], bounds[1:]):
        spec = specs.get(column_id)
        values = _values(reader, spec, start, end) if spec else Values(Form.BYTES, start, end)
        pieces[column_id].append(Piece(rows[members], values))
    # NULLs have no bytes; errors report the position of the ids.
    null_at = np.broadcast_to(ids_at, null_ids.shape)
    for column_id, members, start, end in _by_id(null_ids, null_at, null_at):
        pieces[column_id].append(Piece(rows[members], Values(Form.NULL, start, end)))
    ends: Positions = bounds[-1]
    return ends


def _check_end(reader: Reader, end: Positions, limit: Positions, flags: int) -> None:
    """Check that only a checksum follows the last value."""
    if flags & _CHECKSUM:
        reader.check_ends(end + 1, limit, end)
        extra = reader.bytes_at(end) & EXTRA != 0
        end = end + 5 + 4 * extra
    reader.check(end == limit, "the last value does not end at the end of the row", limit - 1)


def _by_id(
    ids: _Matrix, start: _Matrix, end: _Matrix
) -> Iterator[tuple[ColumnID, Positions, Positions, Positions]]:
    """Yield each column id with the rows that hold it, and the start and end of their values."""
    all_rows = np.arange(ids.shape[1])
    if (ids == ids[:, :1]).all():
        for column_id, *bounds in zip(ids[:, 0].tolist(), start, end, strict=True):
            yield ColumnID(column_id), all_rows, *bounds
        return
    # Sort by id, then by row. Sorting 16-bit numbers is several times faster.
    flat = ids.T.ravel()
    narrow = flat.astype(np.uint16) if flat.max() < 1 << 16 else flat
    order = np.argsort(narrow, kind="stable")
    cuts = np.flatnonzero(np.diff(flat[order])) + 1
    for part in np.split(order, cuts):
        rows, entry = np.divmod(part, len(ids))
        yield ColumnID(int(flat[part[0]])), rows, start[entry, rows], end[entry, rows]


def _values(reader: Reader, spec: ColumnSpec, start: Positions, end: Positions) -> Values:
    form = form_of(spec.type)
    if form is None:
        raise UnsupportedError(f"type {spec.type.tp.name}", f"column {spec.name}")
    if form in (Form.INT, Form.UINT):
        return _whole_numbers(reader, start, end, form)
    if form is Form.FLOAT:
        reader.check(end - start == 8, "float is not 8 bytes long", end - 1)
        floats = floats_from_comparable(reader.big_endian_at(start, 8))
        return Values(form, start, end, floats)
    if form is Form.DECIMAL:
        headers, sizes = headers_at(reader, start)
        reader.check(end - start == sizes, "decimal size does not match its header", end - 1)
        return Values(form, start, end, headers)
    return Values(form, start, end)


def _whole_numbers(reader: Reader, start: Positions, end: Positions, form: Form) -> Values:
    size = end - start
    is_valid = (size == 1) | (size == 2) | (size == 4) | (size == 8)
    reader.check(is_valid, "integer is not 1, 2, 4 or 8 bytes long", end - 1)
    # Shifting left and right removes the bytes after the value and extends the sign.
    unused = 64 - 8 * size
    words = reader.words_at(start) << unused.view(np.uint64)
    if form is Form.UINT:
        return Values(form, start, end, words >> unused.view(np.uint64))
    return Values(form, start, end, words.view(np.int64) >> unused)
