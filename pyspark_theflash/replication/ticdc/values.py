"""Values of TiCDC's storage sink as Arrow columns of the store.

                   canal-json                       csv
    numbers        text                             FLOAT and DOUBLE may have an exponent: 1e+21
    BIT            decimal number                   decimal number
    ENUM, SET      element index, bit mask          names
    BINARY, BLOB   one character per byte           base64 or hex
    TIMESTAMP      in the time zone of TiCDC        the same

All other forms are those of `tidb.codec.text`. JSON values are read from their text, which does not
show the type of some numbers, dates and bytes in TiDB's binary form.
"""

import base64
import binascii
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError, OptionError, UnsupportedError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.replication.storage import to_utc
from pyspark_theflash.replication.ticdc.rows import BinaryEncoding, SinkFormat, SinkRows
from pyspark_theflash.storage.mvcc.rows import stored_columns
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, ColumnFlag, MySQLType
from pyspark_theflash.tidb.codec.text import parse_column
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

_FLOATS: Final = (MySQLType.FLOAT, MySQLType.DOUBLE)
_CHOICES: Final = (MySQLType.ENUM, MySQLType.SET)
_LAYER: Final = "TiCDC row"


def stored_values(rows: SinkRows, table: TableInfo, sink: SinkFormat) -> dict[ColumnID, pa.Array]:
    """Decode the rows' columns by id; columns that are not in the rows are missing.

    Args:
        table: Definition under which the rows were committed.
        sink: Properties that are not in the files.

    Raises:
        CodecError: A text is not a value of its column, or a column is not in `table`.
        OptionError: A property of the sink must be specified.
        UnsupportedError: A value cannot be determined.
    """
    # A public column replaces one of the same name that is being dropped.
    by_name = {c.name.lower(): c for c in stored_columns(table) if not c.is_public and not c.hidden}
    by_name |= {c.name.lower(): c for c in stored_columns(table) if c.is_public}
    values = {}
    for name, texts in zip(rows.names, rows.texts, strict=True):
        column = by_name.get(name.lower())
        if column is None:
            raise CodecError(_LAYER, f"{table.full_name} has no column {name[:200]!r}")
        where = f"{table.full_name}.{column.name}"
        encoding = BinaryEncoding.LATIN1 if name in rows.encoded else None
        if rows.is_csv and column.type.tp in STRING_TYPES:
            encoding = _csv_encoding(column, sink, where)
        values[column.id] = _decode(texts, column, rows, sink, encoding, where)
    return values


def _decode(
    texts: pa.Array,
    column: ColumnInfo,
    rows: SinkRows,
    sink: SinkFormat,
    encoding: BinaryEncoding | None,
    name: str,
) -> pa.Array:
    tp = column.type.tp
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), arrow_type(column.type))
    if tp in STRING_TYPES:
        return _strings(texts, column, encoding, name)
    if tp == MySQLType.BIT or (tp in _CHOICES and not rows.is_csv):
        return _numbers(texts, name)
    if tp in _FLOATS:
        texts = pc.replace_substring(texts, "e+", "e")
    values = parse_column(texts, column.type, name)
    return _utc(values, sink, name) if tp == MySQLType.TIMESTAMP else values


def _numbers(texts: pa.Array, name: str) -> pa.Array:
    try:
        return pc.cast(texts, pa.uint64())
    except pa.ArrowInvalid:
        raise CodecError(_LAYER, f"column {name}: a text is not a number") from None


def _csv_encoding(column: ColumnInfo, sink: SinkFormat, name: str) -> BinaryEncoding | None:
    if column.type.is_binary_string:
        if sink.binary_encoding is None:
            reason = (
                f"column {name} is binary: add ?binary-encoding-method=base64 or =hex to the URL, "
                "as in [sink.csv] of the changefeed's configuration"
            )
            raise OptionError("source", reason)
        return sink.binary_encoding
    if column.type.flag & ColumnFlag.BINARY:
        # Some versions of TiCDC encode it as bytes, and a row does not show which.
        raise UnsupportedError("a text column with the attribute BINARY in csv", name)
    return None


def _strings(
    texts: pa.Array, column: ColumnInfo, encoding: BinaryEncoding | None, name: str
) -> pa.Array:
    is_binary = column.type.is_binary_string
    if encoding is None:
        if is_binary:
            raise CodecError(_LAYER, f"column {name}: not encoded as bytes")
        return texts
    values = _bytes(texts, encoding, name)
    if is_binary:
        return values
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        raise CodecError(_LAYER, f"column {name}: not UTF-8") from None


def _bytes(texts: pa.Array, encoding: BinaryEncoding, name: str) -> pa.Array:
    def decode(text: str | None) -> bytes | None:
        if text is None:
            return None
        if encoding is BinaryEncoding.LATIN1:
            return text.encode("latin1")
        if encoding is BinaryEncoding.HEX:
            return binascii.unhexlify(text)
        return base64.b64decode(text, validate=True)

    try:
        return pa.array(map(decode, texts.to_pylist()), pa.binary())
    except ValueError:
        raise CodecError(_LAYER, f"column {name}: not {encoding.value}") from None


def _utc(values: pa.Array, sink: SinkFormat, name: str) -> pa.Array:
    """Convert TIMESTAMPs, which were parsed as UTC, from the sink's time zone."""
    if sink.time_zone is None:
        reason = (
            f"column {name} is a TIMESTAMP: add ?time-zone=ZONE to the URL, with the time zone of "
            "TiCDC's servers, for example UTC"
        )
        raise OptionError("source", reason)
    return to_utc(values, sink.time_zone, name)
