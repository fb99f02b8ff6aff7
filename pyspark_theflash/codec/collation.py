"""Which collations compare strings by their bytes.

Under these a key holds the string itself, so it can be made from the value and read back. Under any
other it holds the collation's weights. As in TiDB's `util/collate`.
"""

from typing import Final

from pyspark_theflash.codec.field_type import FieldType

# Trailing spaces do not count, so keys leave them out.
_PAD_SPACE: Final = frozenset({"ascii_bin", "latin1_bin", "utf8_bin", "utf8mb4_bin"})
_NO_PAD: Final = frozenset({"binary", "utf8mb4_0900_bin"})


def is_bytewise(field_type: FieldType) -> bool:
    """Whether a key holds strings of this type themselves."""
    return field_type.collate in _PAD_SPACE | _NO_PAD


def pads_space(field_type: FieldType) -> bool:
    """Whether strings that differ in trailing spaces only are equal."""
    return field_type.collate in _PAD_SPACE
