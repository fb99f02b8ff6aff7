"""Rows and handles encoded and decoded one at a time in plain Python.

The vectorised codec is compared with it.

It follows the formats' description and shares no code with the package but the type model. Values
are Python's: int, float, Decimal, str, bytes (JSON too: type and content), list of float for
VECTOR, date, datetime, timedelta, None for NULL. Values outside Python's calendar, zero and
impossible dates and the year 0, are an `OddTime`. A row is a dict by column id; an id that is not
in it is absent.
"""

import datetime as dt
import struct
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Any, NamedTuple

from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)

Types = Mapping[int, FieldType]
Row = dict[int, Any]
_EXACT = Context(prec=80)
_DIGIT_BYTES = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
_UNSIGNED = {MySQLType.BIT, MySQLType.ENUM, MySQLType.SET}
_FLOATS = {MySQLType.FLOAT, MySQLType.DOUBLE}
_MASK64 = 2**64 - 1


class Cursor:
    """Bytes with a position."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def done(self) -> bool:
        return self.at == len(self.data)

    def take(self, size: int) -> bytes:
        result = self.data[self.at : self.at + size]
        assert len(result) == size
        self.at += size
        return result

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def varint(self) -> int:
        value = self.uvarint()
        return -(value + 1) // 2 if value % 2 else value // 2


# Single values


def _uvarint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + _uvarint(value // 128)


def _varint(value: int) -> bytes:
    return _uvarint(value * 2 if value >= 0 else -value * 2 - 1)


def _comparable_float(value: float) -> bytes:
    bits: int
    (bits,) = struct.unpack(">Q", struct.pack(">d", value))
    return (bits | 1 << 63 if value >= 0 else bits ^ _MASK64).to_bytes(8, "big")


def _float(data: bytes) -> float:
    bits = int.from_bytes(data, "big")
    bits = bits & ~(1 << 63) if bits >> 63 else bits ^ _MASK64
    value: float
    (value,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    return value


def _digit_groups(precision: int, fraction: int) -> list[int]:
    whole = precision - fraction
    groups = [whole % 9] + [9] * (whole // 9) + [9] * (fraction // 9) + [fraction % 9]
    return [g for g in groups if g]


def _encode_decimal(value: Decimal, precision: int, fraction: int) -> bytes:
    unscaled = int(value.scaleb(fraction, _EXACT))
    digits = str(abs(unscaled)).rjust(precision, "0")
    out = b""
    for size in _digit_groups(precision, fraction):
        out += int(digits[:size]).to_bytes(_DIGIT_BYTES[size], "big")
        digits = digits[size:]
    if unscaled < 0:
        out = bytes(b ^ 255 for b in out)
    return bytes([precision, fraction, out[0] ^ 128]) + out[1:]


def _decode_decimal(cursor: Cursor) -> Decimal:
    precision, fraction = cursor.take(2)
    groups = _digit_groups(precision, fraction)
    raw = cursor.take(sum(_DIGIT_BYTES[size] for size in groups))
    negative = raw[0] < 128
    raw = bytes([raw[0] ^ 128]) + raw[1:]
    if negative:
        raw = bytes(b ^ 255 for b in raw)
    number = 0
    for size in groups:
        number = number * 10**size + int.from_bytes(raw[: _DIGIT_BYTES[size]], "big")
        raw = raw[_DIGIT_BYTES[size] :]
    return Decimal(-number if negative else number).scaleb(-fraction, _EXACT)


class OddTime(NamedTuple):
    """A date, or a date and time, without a value in Python."""

    year: int
    month: int
    day: int
    hour: int = 0
    minute: int = 0
    second: int = 0
    microsecond: int = 0


def _pack(value: dt.date | OddTime) -> int:
    at = (
        value
        if isinstance(value, dt.datetime | OddTime)
        else dt.datetime(value.year, value.month, value.day)
    )
    date = (at.year * 13 + at.month) << 5 | at.day
    clock = at.hour << 12 | at.minute << 6 | at.second
    return (date << 17 | clock) << 24 | at.microsecond


def _unpack(packed: int, tp: MySQLType) -> dt.date | OddTime:
    date, clock, micro = packed >> 41, packed >> 24 & 0x1FFFF, packed & 0xFFFFFF
    ymd = (date >> 5) // 13, (date >> 5) % 13, date & 31
    is_date = tp in (MySQLType.DATE, MySQLType.NEWDATE)
    assert ymd[0] < 10_000
    assert not is_date or clock == micro == 0
    time = dt.time(clock >> 12, clock >> 6 & 63, clock & 63, micro)
    try:
        day = dt.date(*ymd)
    except ValueError:
        return OddTime(*ymd, time.hour, time.minute, time.second, micro)
    zone = dt.timezone.utc if tp == MySQLType.TIMESTAMP else None
    return day if is_date else dt.datetime.combine(day, time, zone)


def _is_signed(ft: FieldType) -> bool:
    return ft.tp == MySQLType.YEAR or (ft.tp in INTEGER_TYPES and not ft.is_unsigned)


def _nanoseconds(value: dt.timedelta) -> int:
    return (value // dt.timedelta(microseconds=1)) * 1000


def _text(raw: bytes, ft: FieldType) -> Any:
    return raw if ft.is_binary_string else raw.decode()


def _from_wire(wire: Any, ft: FieldType) -> Any:
    """Convert a value of the format to Python's."""
    if ft.tp in DATETIME_TYPES:
        return _unpack(wire, ft.tp)
    if ft.tp == MySQLType.TIME:
        assert wire % 1000 == 0
        return dt.timedelta(microseconds=wire // 1000)
    if ft.tp == MySQLType.FLOAT:
        return struct.unpack("f", struct.pack("f", wire))[0]
    if isinstance(wire, bytes) and ft.tp in STRING_TYPES:
        return _text(wire, ft)
    return wire


# Datums


def _decode_datum(cursor: Cursor) -> Any:
    flag = cursor.take(1)[0]
    if flag == 0:
        return None
    if flag == 1:
        return _memcomparable(cursor)
    if flag == 2:
        return cursor.take(cursor.varint())
    if flag in (3, 7):
        return int.from_bytes(cursor.take(8), "big") - 2**63
    if flag == 4:
        return int.from_bytes(cursor.take(8), "big")
    if flag == 5:
        return _float(cursor.take(8))
    if flag == 6:
        return _decode_decimal(cursor)
    if flag == 8:
        return cursor.varint()
    if flag == 10:
        return _take_json(cursor)
    if flag == 20:
        return _take_vector(cursor)
    assert flag == 9
    return cursor.uvarint()


def _take_json(cursor: Cursor) -> bytes:
    start = cursor.at
    tp = cursor.take(1)[0]
    if tp in (1, 3):
        _, size = struct.unpack("<II", cursor.take(8))
        cursor.take(size - 8)
    elif tp in (12, 13):
        cursor.take(tp - 12)
        cursor.take(cursor.uvarint())
    else:
        cursor.take({4: 1, 9: 8, 10: 8, 11: 8, 14: 8, 15: 8, 16: 8, 17: 12}[tp])
    return cursor.data[start : cursor.at]


def _take_vector(cursor: Cursor) -> list[float]:
    (count,) = struct.unpack("<I", cursor.take(4))
    return list(struct.unpack(f"<{count}f", cursor.take(4 * count)))


def _encode_vector(value: list[float]) -> bytes:
    return struct.pack(f"<I{len(value)}f", len(value), *value)


def _memcomparable(cursor: Cursor) -> bytes:
    out = b""
    while True:
        group, marker = cursor.take(8), cursor.take(1)[0]
        out += group[: marker - 247]
        if marker != 255:
            return out


def _encode_datum(value: Any, ft: FieldType, *, key: bool) -> bytes:
    """Encode a datum: with `key` in the form of keys, otherwise in that of rows."""
    if value is None:
        return b"\0"
    if ft.tp in STRING_TYPES:
        raw = value if isinstance(value, bytes) else value.encode()
        return b"\1" + _encode_memcomparable(raw) if key else b"\2" + _varint(len(raw)) + raw
    if ft.tp == MySQLType.JSON:
        return b"\x0a" + bytes(value)
    if ft.tp == MySQLType.VECTOR:
        return b"\x14" + _encode_vector(value)
    if ft.tp in _FLOATS:
        return b"\5" + _comparable_float(value)
    if ft.tp == MySQLType.NEWDECIMAL:
        return b"\6" + _encode_decimal(value, ft.flen, ft.decimal)
    if ft.tp == MySQLType.TIME:
        ns = _nanoseconds(value)
        return b"\7" + (ns + 2**63).to_bytes(8, "big") if key else b"\x08" + _varint(ns)
    if _is_signed(ft):
        return b"\3" + (value + 2**63).to_bytes(8, "big") if key else b"\x08" + _varint(value)
    number = _pack(value) if ft.tp in DATETIME_TYPES else value
    return b"\4" + number.to_bytes(8, "big") if key else b"\x09" + _uvarint(number)


def _encode_memcomparable(raw: bytes) -> bytes:
    groups = [raw[i : i + 8] for i in range(0, len(raw) + 1, 8)]
    return b"".join(g.ljust(8, b"\0") + bytes([247 + len(g)]) for g in groups)


# Row format v1


def encode_row_v1(row: Row, types: Types) -> bytes:
    """Encode a row's columns in the dict's order."""
    pairs = (
        b"\x08" + _varint(i) + _encode_datum(value, types[i], key=False) for i, value in row.items()
    )
    return b"".join(pairs) or b"\0"


def encode_insert_v1(handle: Sequence[Any], handle_types: Sequence[FieldType], row: bytes) -> bytes:
    """An inserted row of a binlog."""
    datums = (
        b"\7" + (_nanoseconds(v) + 2**63).to_bytes(8, "big")
        if t.tp == MySQLType.TIME
        else _encode_datum(v, t, key=False)
        for v, t in zip(handle, handle_types, strict=True)
    )
    return b"".join(datums) + row


def decode_row_v1(row: bytes, types: Types) -> Row:
    """The columns of `types` that the row holds."""
    old, new = _decode_pairs(Cursor(row), types)
    assert not new
    return old


def decode_update_v1(row: bytes, types: Types) -> tuple[Row, Row]:
    """(old, new)."""
    return _decode_pairs(Cursor(row), types)


def decode_insert_v1(
    row: bytes, types: Types, handle_types: Sequence[FieldType]
) -> tuple[list[Any], Row]:
    """(handle, row)."""
    cursor = Cursor(row)
    handle = [_from_wire(_decode_datum(cursor), ft) for ft in handle_types]
    return handle, _decode_pairs(cursor, types)[0]


def _decode_pairs(cursor: Cursor, types: Types) -> tuple[Row, Row]:
    """The first occurrence of a column is the old value, the second the new one."""
    old: Row = {}
    new: Row = {}
    if cursor.data[cursor.at :] == b"\0":
        return old, new
    while not cursor.done:
        assert cursor.take(1) == b"\x08"
        column_id = cursor.varint()
        wire = _decode_datum(cursor)
        half = new if column_id in old else old
        assert column_id not in half
        ft = types.get(column_id)
        half[column_id] = None if wire is None else _from_wire(wire, ft) if ft else wire
    decoded = ({i: v for i, v in half.items() if i in types} for half in (old, new))
    return next(decoded), next(decoded)


# Row format v2


def _shortest(value: int, *, signed: bool) -> bytes:
    bits = (value if value >= 0 else ~value).bit_length() + signed
    size = next(size for size in (1, 2, 4, 8) if bits <= 8 * size)
    return value.to_bytes(size, "little", signed=signed)


def _encode_cell(value: Any, ft: FieldType) -> bytes:
    if ft.tp in STRING_TYPES or ft.tp == MySQLType.JSON:
        return value if isinstance(value, bytes) else value.encode()
    if ft.tp == MySQLType.VECTOR:
        return _encode_vector(value)
    if ft.tp in _FLOATS:
        return _comparable_float(value)
    if ft.tp == MySQLType.NEWDECIMAL:
        return _encode_decimal(value, ft.flen, ft.decimal)
    if ft.tp == MySQLType.TIME:
        return _shortest(_nanoseconds(value), signed=True)
    if ft.tp in DATETIME_TYPES:
        return _shortest(_pack(value), signed=False)
    return _shortest(value, signed=_is_signed(ft))


def _decode_cell(raw: bytes, ft: FieldType) -> Any:
    if ft.tp in STRING_TYPES:
        return _text(raw, ft)
    if ft.tp in (MySQLType.JSON, MySQLType.VECTOR):
        cursor = Cursor(raw)
        value = _take_json(cursor) if ft.tp == MySQLType.JSON else _take_vector(cursor)
        assert cursor.done
        return value
    if ft.tp in _FLOATS:
        return _from_wire(_float(raw), ft)
    if ft.tp == MySQLType.NEWDECIMAL:
        return _decode_decimal(Cursor(raw))
    signed = _is_signed(ft) or ft.tp == MySQLType.TIME
    return _from_wire(int.from_bytes(raw, "little", signed=signed), ft)


def encode_row_v2(row: Row, types: Types, checksum: bytes = b"") -> bytes:
    """Encode a row; `checksum` are the bytes from its header on, if there is one."""
    present = sorted(i for i, v in row.items() if v is not None)
    nulls = sorted(i for i, v in row.items() if v is None)
    cells = [_encode_cell(row[i], types[i]) for i in present]
    ends = [sum(map(len, cells[: n + 1])) for n in range(len(cells))]
    big = max([0, *row]) > 255 or max([0, *ends]) > 65535
    flags = big | (2 if checksum else 0)
    header = struct.pack("<BBHH", 128, flags, len(present), len(nulls))
    ids = struct.pack(f"<{len(row)}{'I' if big else 'B'}", *present, *nulls)
    offsets = struct.pack(f"<{len(ends)}{'I' if big else 'H'}", *ends)
    return header + ids + offsets + b"".join(cells) + checksum


def decode_row_v2(row: bytes, types: Types) -> Row:
    """The columns of `types` that the row holds."""
    _, flags, present, null = struct.unpack_from("<BBHH", row)
    big = flags & 1
    ids = struct.unpack_from(f"<{present + null}{'I' if big else 'B'}", row, 6)
    at = 6 + (present + null) * (4 if big else 1)
    ends = struct.unpack_from(f"<{present}{'I' if big else 'H'}", row, at)
    data = row[at + present * (4 if big else 2) :]
    result: Row = {i: None for i in ids[present:] if i in types}
    for i, start, end in zip(ids, (0, *ends), ends, strict=False):
        if i in types:
            result[i] = _decode_cell(data[start:end], types[i])
    return result


# Common handles


def encode_handle(values: Sequence[Any], types: Sequence[FieldType]) -> bytes:
    """Encode a handle; the caller has trimmed and cut strings."""
    datums = (_encode_datum(v, t, key=True) for v, t in zip(values, types, strict=True))
    return b"".join(datums).ljust(9, b"\0")


def decode_handle(handle: bytes, types: Sequence[FieldType]) -> list[Any]:
    """The inverse of `encode_handle`."""
    cursor = Cursor(handle)
    return [_from_wire(_decode_datum(cursor), ft) for ft in types]
