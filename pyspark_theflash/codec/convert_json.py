"""Changes of type to JSON: texts are read as JSON, numbers become JSON numbers.

Decimals become doubles. As `convertToMysqlJSON` of TiDB's types/datum.go.
"""

import struct
from typing import Any

import pyarrow as pa
import pyarrow.compute

from pyspark_theflash.codec.array import ArrowArray, map_distinct
from pyspark_theflash.codec.change import Change
from pyspark_theflash.codec.field_type import STRING_TYPES
from pyspark_theflash.codec.json import JSONType
from pyspark_theflash.codec.json_text import parse_json
from pyspark_theflash.errors import CodecError

pc: Any = pyarrow.compute


def to_json(change: Change, values: ArrowArray) -> ArrowArray:
    """The old values, which are strings or numbers, as JSON.

    Raises:
        UnsupportedError: a text that is no JSON, which TiDB refuses, too.
    """
    if change.old.tp in STRING_TYPES:
        try:
            return map_distinct(pc.cast(values, pa.string()), parse_json, pa.binary())
        except (CodecError, pa.ArrowException) as error:
            raise change.unsupported("one is no JSON") from error
    if pa.types.is_signed_integer(values.type):
        return map_distinct(values, lambda n: struct.pack("<Bq", JSONType.INT64, n), pa.binary())
    if pa.types.is_unsigned_integer(values.type):
        return map_distinct(values, lambda n: struct.pack("<BQ", JSONType.UINT64, n), pa.binary())
    return map_distinct(
        values, lambda n: struct.pack("<Bd", JSONType.DOUBLE, float(n)), pa.binary()
    )
