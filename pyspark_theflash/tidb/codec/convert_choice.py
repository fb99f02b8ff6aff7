"""Conversion to ENUM and SET.

An integer is the element's index or the bit mask. A string, also the name of an old ENUM or SET
value, is compared with the element names under the new collation; a string that matches no name may
be an integer literal of Go. The result is 0 if there is no such element. See `ParseEnum` and
`ParseSet` in TiDB's types package.
"""

import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.array import map_distinct, primitive
from pyspark_theflash.tidb.codec.change import TypeChange
from pyspark_theflash.tidb.codec.collation import sort_keys
from pyspark_theflash.tidb.codec.convert_string import string_form
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, MySQLType
from pyspark_theflash.tidb.codec.loose_number import MAX_UINT64

# An integer literal in Go's syntax, without a sign.
_NUMBER: Final = re.compile(
    r"0[xX](_?[0-9a-fA-F])+|0[bB](_?[01])+|0[oO](_?[0-7])+|0(_?[0-7])*|[1-9](_?\d)*", re.ASCII
)
_MAX_NUMBER_LENGTH: Final = 200


def to_enum(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to ENUM: indexes of elements, from 1. Raises `UnsupportedError`."""
    count = len(change.new.elems)
    if change.old.tp in INTEGER_TYPES:
        numbers = values.to_numpy()
        return _zero_unless((numbers >= 1) & (numbers <= count), numbers)
    elements = _Elements(change)

    def index(text: str | bytes) -> int:
        name = _decode(text)
        if name is None:
            return 0
        (position,) = elements.find([name])
        number = _parse_number(name) if position is None else position + 1
        return number if number <= count else 0

    # An old index 0 prints as '', which may also be the name of an element.
    result = map_distinct(string_form(values, change.old), index, pa.uint64())
    if change.old.tp == MySQLType.ENUM:
        is_element = pc.less_equal(values, len(change.old.elems))
        zero = pa.scalar(0, pa.uint64())
        result = pc.if_else(pc.and_(pc.greater(values, 0), is_element), result, zero)
    return result


def to_set(change: TypeChange, values: pa.Array) -> pa.Array:
    """Convert values to SET: bit masks of elements. Raises `UnsupportedError`."""
    highest = 2 ** len(change.new.elems) - 1
    if change.old.tp in INTEGER_TYPES:
        numbers = values.to_numpy()
        return _zero_unless((numbers >= 0) & (numbers <= highest), numbers)
    elements = _Elements(change)

    def mask(text: str | bytes) -> int:
        names = _decode(text)
        if not names:
            return 0
        bits = elements.find(list(dict.fromkeys(names.split(","))))
        number = (
            _parse_number(names) if None in bits else sum(1 << i for i in bits if i is not None)
        )
        return number if number <= highest else 0

    return map_distinct(string_form(values, change.old), mask, pa.uint64())


class _Elements:
    """Positions of the new type's elements by sort key."""

    def __init__(self, change: TypeChange) -> None:
        self._change = change
        keys = self._sort_keys(list(change.new.elems))
        self._positions = {key: i for i, key in reversed(list(enumerate(keys)))}

    def find(self, names: list[str]) -> set[int | None]:
        """Return the positions of the named elements, from 0; None if a name matches no element."""
        return {self._positions.get(key) for key in self._sort_keys(names)}

    def _sort_keys(self, names: list[str]) -> list[object]:
        try:
            keys: list[object] = sort_keys(
                pa.array(names, pa.string()), self._change.new
            ).to_pylist()
        except UnsupportedError as error:
            raise UnsupportedError(error.what, self._change.where) from None
        return keys


def _zero_unless(is_valid: npt.NDArray[np.bool_], numbers: npt.NDArray[Any]) -> pa.Array:
    return primitive(np.where(is_valid, numbers, 0).astype(np.uint64), pa.uint64())


def _decode(text: str | bytes) -> str | None:
    """Decode UTF-8; return None for invalid UTF-8, which matches no name."""
    if isinstance(text, str):
        return text
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _parse_number(text: str) -> int:
    """Parse an integer literal; return 0 if it is invalid or exceeds 64 bits."""
    if len(text) > _MAX_NUMBER_LENGTH or not _NUMBER.fullmatch(text):
        return 0
    digits = text.replace("_", "")
    is_octal = digits.startswith("0") and digits.isdigit()
    number = int(digits, 8) if is_octal else int(digits, 0)
    return number if number <= MAX_UINT64 else 0
