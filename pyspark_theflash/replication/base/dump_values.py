"""Values in the files of Dumpling as Arrow columns of the store.

The texts are those of TiDB's text protocol, as Dumpling's session has read them:

    ENUM, SET        names, which may be ambiguous
    FLOAT            with an exponent only 6 digits, which do not determine the value
    TIMESTAMP        in the session's time zone, which is not in the files
    BINARY, BLOB     bytes; hex or base64 in the CSV of some --csv-output-dialect
    JSON             its text, which does not show the type of some numbers, dates and bytes
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CodecError, OptionError, UnsupportedError
from pyspark_theflash.replication.storage import to_utc
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.codec.text import parse_column
from pyspark_theflash.tidb.schema.model import ColumnInfo

DIALECTS: Final = ("", "snowflake", "redshift", "bigquery")
_FLOATS: Final = (MySQLType.FLOAT, MySQLType.DOUBLE)
_CHOICES: Final = (MySQLType.ENUM, MySQLType.SET)
_LAYER: Final = "dump"


def is_bytes(column: ColumnInfo) -> bool:
    """Return whether values are bytes."""
    return column.type.tp == MySQLType.BIT or column.type.is_binary_string


def decode_dumped(
    values: Sequence[bytes | None], column: ColumnInfo, name: str, zone: str | None
) -> pa.Array:
    """Decode the fields of a column.

    Args:
        values: The fields, without escapes.
        column: The column.
        name: Its name for errors.
        zone: Time zone of TIMESTAMPs.

    Raises:
        CodecError: A field is not a value of its column.
        OptionError: There are TIMESTAMPs, but the time zone is not specified.
        UnsupportedError: A field does not determine the value.
    """
    raw, tp = pa.array(values, pa.binary()), column.type.tp
    if is_bytes(column):
        return parse_column(raw, column.type, name)
    try:
        texts = raw.cast(pa.string())
    except pa.ArrowInvalid:
        # Not chained, because Arrow's message contains the value.
        raise CodecError(_LAYER, f"column {name}: not UTF-8") from None
    if tp in _CHOICES:
        _check_choices(texts, column, name)
    if tp in _FLOATS:
        texts = pc.replace_substring(texts, "e+", "e")
    if tp == MySQLType.FLOAT and _any(pc.match_substring(texts, "e")):
        what = "a FLOAT from 1e15 on or below 1e-15, of which a dump has only 6 digits,"
        raise UnsupportedError(what, name)
    decoded = parse_column(texts, column.type, name)
    if tp != MySQLType.TIMESTAMP or decoded.null_count == len(decoded):
        return decoded
    return to_utc(decoded, check_zone(zone, name), name)


def decoded_bytes(values: Sequence[bytes | None], dialect: str, name: str) -> list[bytes | None]:
    """Decode the bytes of a CSV of a dialect. Raises `CodecError`."""
    if not dialect:
        return list(values)
    try:
        if dialect == "bigquery":
            return [None if v is None else base64.b64decode(v, validate=True) for v in values]
        return [None if v is None else binascii.unhexlify(v) for v in values]
    except ValueError:
        raise CodecError(_LAYER, f"column {name}: not bytes in {dialect}'s form") from None


def _check_choices(texts: pa.Array, column: ColumnInfo, name: str) -> None:
    """Check that names determine their numbers: '' is also the number 0."""
    elements = column.type.elems
    ambiguous = {each for each in elements if elements.count(each) > 1 or not each}
    if not ambiguous:
        return
    parts = texts if column.type.tp == MySQLType.ENUM else pc.split_pattern(texts, ",").flatten()
    if _any(pc.is_in(parts, value_set=pa.array(sorted(ambiguous), pa.string()))):
        raise UnsupportedError("an element whose name is empty or not unique", name)


def check_zone(zone: str | None, name: str) -> str:
    """Return the time zone of a column's TIMESTAMPs. Raises `OptionError` if there is none."""
    if zone is None:
        reason = (
            f"column {name} is a TIMESTAMP: add ?time-zone=ZONE to the URL (dump:file:///PATH), "
            "with the time zone of Dumpling's sessions, which is TiDB's, unless --params set it"
        )
        raise OptionError("base", reason)
    return zone


def _any(condition: pa.Array) -> bool:
    return bool(pc.any(condition, min_count=0).as_py())
