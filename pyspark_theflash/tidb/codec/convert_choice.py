"""Changes of type to ENUM and SET.

From integers: the index, the bit mask. From strings, also those that an old ENUM or SET has for its
numbers: by name, equal under the new collation; a text that is no name may be a number as Go writes
them. 0 where there is no such element. As `ParseEnum` and `ParseSet` in TiDB's types package.
"""

import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.tidb.codec.array import ArrowArray, map_distinct, primitive
from pyspark_theflash.tidb.codec.change import TypeChange
from pyspark_theflash.tidb.codec.collation import sort_keys
from pyspark_theflash.tidb.codec.convert_string import string_form
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, MySQLType
from pyspark_theflash.tidb.codec.loose_number import MAX_UINT64

pc: Any = pyarrow.compute

_NUMBER: Final = re.compile(
    r"0[xX](_?[0-9a-fA-F])+|0[bB](_?[01])+|0[oO](_?[0-7])+|0(_?[0-7])*|[1-9](_?\d)*", re.ASCII
)
_MAX_NUMBER_LENGTH: Final = 200


def to_enum(change: TypeChange, values: ArrowArray) -> ArrowArray:
    """The old values as indexes of elements, from 1.

    Raises:
        UnsupportedError: a collation that is not known here.
    """
    count = len(change.new.elems)
    if change.old.tp in INTEGER_TYPES:
        numbers = values.to_numpy()
        return _where((numbers >= 1) & (numbers <= count), numbers)
    names = _Names(change)

    def index(text: str | bytes) -> int:
        name = _text(text)
        if name is None:
            return 0
        (found,) = names.indexes([name])
        number = _number(name) if found is None else found + 1
        return number if number <= count else 0

    # Index 0 has the name '', which may be that of an element too.
    result = map_distinct(string_form(values, change.old), index, pa.uint64())
    if change.old.tp == MySQLType.ENUM:
        is_element = pc.less_equal(values, len(change.old.elems))
        zero = pa.scalar(0, pa.uint64())
        result = pc.if_else(pc.and_(pc.greater(values, 0), is_element), result, zero)
    return result


def to_set(change: TypeChange, values: ArrowArray) -> ArrowArray:
    """The old values as bit masks of elements.

    Raises:
        UnsupportedError: a collation that is not known here.
    """
    highest = 2 ** len(change.new.elems) - 1
    if change.old.tp in INTEGER_TYPES:
        numbers = values.to_numpy()
        return _where((numbers >= 0) & (numbers <= highest), numbers)
    names = _Names(change)

    def mask(text: str | bytes) -> int:
        name = _text(text)
        if not name:
            return 0
        found = names.indexes(list(dict.fromkeys(name.split(","))))
        number = _number(name) if None in found else sum(1 << i for i in found if i is not None)
        return number if number <= highest else 0

    return map_distinct(string_form(values, change.old), mask, pa.uint64())


class _Names:
    """The new elements by what they compare by."""

    def __init__(self, change: TypeChange) -> None:
        self._change = change
        keys = self._keys(list(change.new.elems))
        self._indexes = {key: i for i, key in reversed(list(enumerate(keys)))}

    def indexes(self, names: list[str]) -> set[int | None]:
        """Those of all names, from 0; with None where there is no such element."""
        return {self._indexes.get(key) for key in self._keys(names)}

    def _keys(self, names: list[str]) -> list[object]:
        try:
            keys: list[object] = sort_keys(
                pa.array(names, pa.string()), self._change.new
            ).to_pylist()
        except UnsupportedError as error:
            raise UnsupportedError(error.what, self._change.where) from None
        return keys


def _where(is_valid: npt.NDArray[np.bool_], numbers: npt.NDArray[Any]) -> ArrowArray:
    return primitive(np.where(is_valid, numbers, 0).astype(np.uint64), pa.uint64())


def _text(text: str | bytes) -> str | None:
    """None for bytes that are no text and so no name."""
    if isinstance(text, str):
        return text
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _number(text: str) -> int:
    """0 for what is none or does not fit 64 bits."""
    if len(text) > _MAX_NUMBER_LENGTH or not _NUMBER.fullmatch(text):
        return 0
    digits = text.replace("_", "")
    is_octal = digits.startswith("0") and digits.isdigit()
    number = int(digits, 8) if is_octal else int(digits, 0)
    return number if number <= MAX_UINT64 else 0
