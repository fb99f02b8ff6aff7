"""Arrow types of TiDB columns, in the store and in the batches of a scan.

    TINYINT..BIGINT        int8 int16 int32 int32 int64, and their unsigned forms
    YEAR                   int16
    FLOAT, DOUBLE          float32, float64
    DECIMAL(p, s)          decimal128(p, s) up to 38 digits, decimal256 above
    DATE                   date32
    DATETIME               timestamp[us]
    TIMESTAMP              timestamp[us, UTC]
    TIME                   duration[us]
    CHAR, VARCHAR, TEXT    string
    BINARY.., BLOB         binary
    BIT                    uint64, as TiDB stores it
    ENUM, SET              uint64: element index, bit mask
    JSON                   binary: TiDB's binary JSON, type byte and content (`json`)
    VECTOR                 list<float32>

These types represent every TiDB value. A zero or impossible date (0000-00-00, 2020-02-31) is stored
as a day after the end of TiDB's calendar, from `time.IMPOSSIBLE_DAY` on. Code that passes dates to
a consumer without this convention calls `time.resolve_impossible` first.
"""

from typing import Final

import pyarrow as pa

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.field_type import (
    DATETIME_TYPES,
    STRING_TYPES,
    FieldType,
    MySQLType,
)

DECIMAL128_DIGITS: Final = 38
MAX_PRECISION: Final = 65
MAX_SCALE: Final = 30
_MAX_FSP: Final = 6
_MAX_BITS: Final = 64
# MySQL's defaults for DECIMAL without a precision.
_DEFAULT_PRECISION, _DEFAULT_SCALE = 10, 0

_SIGNED: Final = {
    MySQLType.TINY: pa.int8(),
    MySQLType.SHORT: pa.int16(),
    MySQLType.INT24: pa.int32(),
    MySQLType.LONG: pa.int32(),
    MySQLType.LONGLONG: pa.int64(),
}
_UNSIGNED: Final = {
    MySQLType.TINY: pa.uint8(),
    MySQLType.SHORT: pa.uint16(),
    MySQLType.INT24: pa.uint32(),
    MySQLType.LONG: pa.uint32(),
    MySQLType.LONGLONG: pa.uint64(),
}
_OTHER: Final = {
    MySQLType.YEAR: pa.int16(),
    MySQLType.FLOAT: pa.float32(),
    MySQLType.DOUBLE: pa.float64(),
    MySQLType.DATE: pa.date32(),
    MySQLType.NEWDATE: pa.date32(),
    MySQLType.DATETIME: pa.timestamp("us"),
    MySQLType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    MySQLType.TIME: pa.duration("us"),
    MySQLType.BIT: pa.uint64(),
    MySQLType.ENUM: pa.uint64(),
    MySQLType.SET: pa.uint64(),
    MySQLType.JSON: pa.binary(),
    MySQLType.VECTOR: pa.list_(pa.float32()),
}


def arrow_type(field_type: FieldType) -> pa.DataType:
    """Return the Arrow type for the values of a TiDB type. Raises `UnsupportedError`."""
    tp = field_type.tp
    _check_size(field_type)
    if tp in _SIGNED:
        return (_UNSIGNED if field_type.is_unsigned else _SIGNED)[tp]
    if tp in STRING_TYPES:
        return pa.binary() if field_type.is_binary_string else pa.string()
    if tp == MySQLType.NEWDECIMAL:
        return decimal_type(field_type)
    if tp in _OTHER:
        return _OTHER[tp]
    raise UnsupportedError(f"type {tp.name}", "column")


def decimal_type(field_type: FieldType) -> pa.DataType:
    """Return decimal128 or decimal256 for DECIMAL(flen, decimal). Raises `UnsupportedError`."""
    precision = field_type.flen if field_type.flen > 0 else _DEFAULT_PRECISION
    scale = field_type.decimal if field_type.decimal >= 0 else _DEFAULT_SCALE
    if not scale <= precision <= MAX_PRECISION or scale > MAX_SCALE:
        raise UnsupportedError(f"DECIMAL({precision}, {scale})", "column")
    if precision <= DECIMAL128_DIGITS:
        return pa.decimal128(precision, scale)
    return pa.decimal256(precision, scale)


def _check_size(field_type: FieldType) -> None:
    """Raise if fractional digits, BIT width or number of SET elements exceed MySQL's limits.

    The decoders rely on these limits.
    """
    tp = field_type.tp
    has_fsp = tp == MySQLType.TIME or tp in DATETIME_TYPES
    if has_fsp and field_type.fsp > _MAX_FSP:
        raise UnsupportedError(f"{tp.name}({field_type.fsp})", "column")
    if tp == MySQLType.BIT and field_type.flen > _MAX_BITS:
        raise UnsupportedError(f"BIT({field_type.flen})", "column")
    if tp == MySQLType.SET and len(field_type.elems) > _MAX_BITS:
        raise UnsupportedError(f"a SET of {len(field_type.elems)} elements", "column")
