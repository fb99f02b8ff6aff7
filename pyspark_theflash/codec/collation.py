"""How strings compare: the bytes that stand for them in keys.

Under a collation that compares bytes a key holds the string itself, so it can be made from the
value and read back. Under any other it holds the collation's weights. As in TiDB's `util/collate`.
"""

from typing import Final

import pyarrow.compute as pc

from pyspark_theflash.codec.array import ArrowArray
from pyspark_theflash.codec.field_type import FieldType
from pyspark_theflash.errors import UnsupportedError

# Trailing spaces do not count, so keys leave them out.
_PAD_SPACE: Final = frozenset({"ascii_bin", "latin1_bin", "utf8_bin", "utf8mb4_bin"})
_NO_PAD: Final = frozenset({"binary", "utf8mb4_0900_bin"})


def is_bytewise(field_type: FieldType) -> bool:
    """Whether a key holds strings of this type themselves."""
    return field_type.collate in _PAD_SPACE | _NO_PAD


def pads_space(field_type: FieldType) -> bool:
    """Whether strings that differ in trailing spaces only are equal."""
    return field_type.collate in _PAD_SPACE


def sort_keys(values: ArrowArray, field_type: FieldType) -> ArrowArray:
    """What `values` (strings or bytes; nulls stay) compare by: equal ones are equal strings.

    Raises:
        UnsupportedError: the collation is not known here.
    """
    if not is_bytewise(field_type):
        raise UnsupportedError(f"collation {field_type.collate}", "column")
    return pc.ascii_rtrim(values, characters=" ") if pads_space(field_type) else values
