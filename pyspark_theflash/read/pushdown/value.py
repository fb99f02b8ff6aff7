"""Columns as numbers, for exact and fast comparison, arithmetic and aggregation.

    Exact      integers, decimals      unscaled integers and a scale
    Ordered    floats, dates, times    64-bit integers in the order of the values
    Texts      strings, binary         Arrow arrays, possibly dictionary-encoded

Exact numbers use int64 if the values in the batch fit, independent of the type, and Python
integers (slow, unbounded) otherwise. Floats compare by their bits, as in Spark: all NaNs are equal
and greater than other numbers, and 0.0 equals -0.0.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.errors import ColumnNotFoundError, SqlOverflowError, UnsupportedError
from pyspark_theflash.read.pushdown.term import LiteralKind, LiteralTerm
from pyspark_theflash.tidb.codec.arrow import DECIMAL128_DIGITS
from pyspark_theflash.tidb.codec.narrow import is_narrow, narrow_ints
from pyspark_theflash.tidb.codec.reader import Positions

Mask: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[Any]
"""int64; int32 for values that are only compared; or objects: Python integers."""
WHERE: Final = "filter"
_INT64_MAX: Final = (1 << 63) - 1
_SPARK_MIN_SCALE: Final = 6
TEXT_BITS: Final = 512
ZONED: Final = pa.timestamp("us", tz="UTC")
NTZ: Final = pa.timestamp("us")
_TIME_TYPES: Final = (pa.date32(), ZONED, NTZ, pa.duration("us"))
LITERAL_TYPES: Final = {
    LiteralKind.FLOAT: pa.float32(),
    LiteralKind.DOUBLE: pa.float64(),
    LiteralKind.STRING: pa.string(),
    LiteralKind.BINARY: pa.binary(),
    LiteralKind.DATE: pa.date32(),
    LiteralKind.TIMESTAMP: ZONED,
    LiteralKind.TIMESTAMP_NTZ: NTZ,
    LiteralKind.DURATION: pa.duration("us"),
}
"""Types of literals, except for exact ones, whose type depends on the value."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Values `ints` / 10 ** `scale`; arbitrary where `valid` is false. `valid` None: all valid."""

    ints: Ints
    type: pa.DataType
    valid: Mask | None = None

    @property
    def scale(self) -> int:
        return self.type.scale if pa.types.is_decimal(self.type) else 0

    def scaled(self, scale: int) -> Ints:
        """Return the unscaled integers at a scale that is not below the current one."""
        factor = 10 ** (scale - self.scale)
        if factor == 1:
            return self.ints
        scaled: Ints = _fitting(self.ints, factor * max(magnitude(self.ints), 1)) * factor
        return scaled


class Ordered:
    """Integers in the order of the values of `type`, int32 for 32-bit types; `valid` as in `Exact`.

    Floats and integers are converted to each other on first use.
    """

    __slots__ = ("_floats", "_ints", "type", "valid")

    def __init__(
        self,
        ints: npt.NDArray[np.int64] | npt.NDArray[np.int32],
        type: pa.DataType,
        valid: Mask | None = None,
    ) -> None:
        self._ints: npt.NDArray[np.int64] | npt.NDArray[np.int32] | None = ints
        self._floats: npt.NDArray[np.float64] | None = None
        self.type, self.valid = type, valid

    @classmethod
    def of_floats(
        cls, floats: npt.NDArray[np.float64], type: pa.DataType, valid: Mask | None = None
    ) -> "Ordered":
        """Create from floats, which may contain -0.0."""
        ordered = cls.__new__(cls)
        ordered._ints, ordered._floats = None, floats
        ordered.type, ordered.valid = type, valid
        return ordered

    @property
    def ints(self) -> npt.NDArray[np.int64] | npt.NDArray[np.int32]:
        if self._ints is None:
            self._ints = ordered_floats(self.floats)
        return self._ints

    @property
    def floats(self) -> npt.NDArray[np.float64]:
        if self._floats is None:
            self._floats = floats_of(self.ints.astype(np.int64, copy=False))
        return self._floats


@dataclass(frozen=True, slots=True)
class Texts:
    """String or binary values."""

    values: pa.Array
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Other:
    """Values that support neither comparison nor arithmetic."""

    values: pa.Array
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Constant:
    """One literal for all rows."""

    literal: LiteralTerm


Rows: TypeAlias = Exact | Ordered | Texts | Other
Value: TypeAlias = Rows | Constant


class Batch:
    """Columns of a batch of rows, converted on first use."""

    def __init__(
        self, columns: Mapping[str, pa.Array], rows: int, budget: Budget = DEFAULT_BUDGET
    ) -> None:
        """Wrap arrays by lower-case column name. `budget` limits the evaluation of terms."""
        self._columns, self.rows, self.budget = columns, rows, budget
        self._values: dict[str, Rows] = {}

    def only(self, names: Iterable[str], places: Positions) -> "Batch":
        """Return the rows at `places` with only the named columns."""
        indices = pa.array(places)
        columns = {name.lower(): self.array(name).take(indices) for name in names}
        return Batch(columns, len(places), self.budget)

    def slice(self, start: int, count: int) -> "Batch":
        """Return consecutive rows."""
        columns = {name: array.slice(start, count) for name, array in self._columns.items()}
        return Batch(columns, count, self.budget)

    def column(self, name: str) -> Rows:
        """Return a converted column. Raises `ColumnNotFoundError`."""
        key = name.lower()
        if key not in self._values:
            self._values[key] = value_of(self.array(name))
        return self._values[key]

    def array(self, name: str) -> pa.Array:
        """Return a column as passed in. Raises `ColumnNotFoundError`."""
        values = self._columns.get(name.lower())
        if values is None:
            raise ColumnNotFoundError(WHERE, name, tuple(self._columns))
        return values

    def width(self, name: str) -> int:
        """Return the approximate bits per value of a column. Raises `ColumnNotFoundError`."""
        tp = self.array(name).type
        tp = tp.index_type if pa.types.is_dictionary(tp) else tp
        is_fixed = pa.types.is_primitive(tp) or pa.types.is_decimal(tp)
        return tp.bit_width if is_fixed else TEXT_BITS


def computed(operator: str, left: Value, right: Value) -> Exact:
    """Return the sum, difference or product of decimals.

    Raises:
        UnsupportedError: The operands are not decimals, or Spark would round the result.
        SqlOverflowError: A result does not fit its type.
    """
    x, y = _operand(left), _operand(right)
    tp = result_type(operator, x.type, y.type)
    if operator == "*":
        a, b = x.ints, y.ints
        bound = magnitude(a) * magnitude(b)
    else:
        a, b = x.scaled(tp.scale), y.scaled(tp.scale)
        bound = magnitude(a) + magnitude(b)
    a, b = _fitting(a, bound), _fitting(b, bound)
    ints = a * b if operator == "*" else a + b if operator == "+" else a - b
    valid = both(x.valid, y.valid)
    if bound >= 10**tp.precision:
        valid_ints = ints if valid is None else ints[np.broadcast_to(valid, ints.shape)]
        if magnitude(valid_ints) >= 10**tp.precision:
            raise SqlOverflowError(f"a result of more than {tp.precision} digits")
    return Exact(ints, tp, valid)


def value_of(values: pa.Array) -> Rows:
    """Convert an Arrow array."""
    tp = values.type
    inner = tp.value_type if pa.types.is_dictionary(tp) else tp
    if pa.types.is_string(inner) or pa.types.is_binary(inner):
        return Texts(values, inner)
    if pa.types.is_integer(tp) or pa.types.is_decimal(tp):
        return Exact(_exact_ints(values), tp, valid_of(values))
    if pa.types.is_floating(tp):
        return Ordered.of_floats(_numpy(values, pa.float64()), tp, valid_of(values))
    if tp in _TIME_TYPES:
        width = pa.int32() if pa.types.is_date32(tp) else pa.int64()
        ints = _numpy(values.view(width), width)
        return Ordered(ints, tp, valid_of(values))
    return Other(values, tp)


def valid_of(values: pa.Array) -> Mask | None:
    """Return the validity mask of an array; None if there are no nulls."""
    if not values.null_count:
        return None
    valid: Mask = values.is_valid().to_numpy(zero_copy_only=False)
    return valid


def validity(value: Rows) -> Mask | None:
    """Return the validity mask of a value; None if there are no NULLs."""
    return value.valid if isinstance(value, Exact | Ordered) else valid_of(value.values)


def ordered_floats(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Convert floats to integers in Spark's order of floats; inverse of `floats_of`."""
    with np.errstate(invalid="ignore"):
        # -0.0 + 0.0 is 0.0.
        bits = np.where(np.isnan(values), np.nan, values + 0.0).view(np.int64)
    return _mirrored(bits)


def floats_of(ordered: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Convert the integers of `ordered_floats` back."""
    return _mirrored(ordered).view(np.float64)


def _mirrored(bits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Reverse the order of negative numbers; its own inverse."""
    mirrored: npt.NDArray[np.int64] = bits ^ (bits >> 63 & _INT64_MAX)
    return mirrored


def magnitude(ints: Ints) -> int:
    """Return the largest absolute value; 0 for no values."""
    return max(abs(int(ints.max())), abs(int(ints.min()))) if len(ints) else 0


def constant_ints(literal: LiteralTerm) -> tuple[int, int]:
    """Return an exact literal as an unscaled integer and its scale."""
    value = literal.value
    if isinstance(value, Decimal):
        sign, digits, exponent = value.as_tuple()
        number = int("".join(map(str, digits))) * 10 ** max(int(exponent), 0)
        return -number if sign else number, max(-int(exponent), 0)
    if isinstance(value, int):
        return value, 0
    raise UnsupportedError(f"a literal of kind {literal.kind.value} as an exact number", WHERE)


def _operand(value: Value) -> Exact:
    """Return a decimal operand; literals become decimals as in Spark."""
    if isinstance(value, Exact) and pa.types.is_decimal(value.type):
        return value
    if isinstance(value, Constant) and value.literal.kind in (LiteralKind.INT, LiteralKind.DECIMAL):
        number, scale = constant_ints(value.literal)
        digits = max(len(str(abs(number))), scale, 1)
        if digits > DECIMAL128_DIGITS:
            raise UnsupportedError("a literal of more than 38 digits", WHERE)
        ints = np.array([number], np.int64 if abs(number) <= _INT64_MAX else object)
        return Exact(ints, pa.decimal128(digits, scale))
    raise UnsupportedError("arithmetic on other types than decimals", WHERE)


def result_type(operator: str, left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """Return Spark's result type: `DecimalType.adjustPrecisionScale`, if it cuts off no digits.

    Raises:
        UnsupportedError: Spark would round.
    """
    if operator == "*":
        precision, scale = left.precision + right.precision + 1, left.scale + right.scale
    else:
        scale = max(left.scale, right.scale)
        whole = max(left.precision - left.scale, right.precision - right.scale)
        precision = whole + scale + 1
    if precision <= DECIMAL128_DIGITS:
        return pa.decimal128(precision, scale)
    kept_scale = max(DECIMAL128_DIGITS - (precision - scale), min(scale, _SPARK_MIN_SCALE))
    if kept_scale < scale:
        raise UnsupportedError(f"{operator} with a result scale of {scale}", WHERE)
    return pa.decimal128(DECIMAL128_DIGITS, scale)


def both(left: Mask | None, right: Mask | None) -> Mask | None:
    """Combine two validity masks."""
    if left is None or right is None:
        return left if right is None else right
    return left & right


def _fitting(ints: Ints, bound: int) -> Ints:
    """Convert to int64, or to Python integers if `bound` exceeds int64."""
    if bound > _INT64_MAX:
        return ints.astype(object)
    return ints if ints.dtype == object else ints.astype(np.int64, copy=False)


def _exact_ints(values: pa.Array) -> Ints:
    """Return integers, or the unscaled integers of decimals; 0 for nulls."""
    tp = values.type
    if pa.types.is_decimal(tp):
        return _decimal_ints(values, 4 if pa.types.is_decimal256(tp) else 2)
    ints = _numpy(values, tp)
    if pa.types.is_uint64(tp):
        return ints.view(np.int64) if magnitude(ints) <= _INT64_MAX else ints.astype(object)
    return ints.astype(np.int64, copy=False)


def _decimal_ints(values: pa.Array, words: int) -> Ints:
    """Return the unscaled integers of decimals of 2 or 4 64-bit words, as int64 if they fit."""
    if not len(values):
        return np.zeros(0, np.int64)
    if is_narrow(values.type):
        return narrow_ints(values)
    data: Any = values.buffers()[1]
    limbs = np.frombuffer(data, np.int64).reshape(-1, words)
    limbs = limbs[values.offset : values.offset + len(values)]
    valid = valid_of(values)
    if valid is not None:
        limbs = np.where(valid[:, None], limbs, 0)
    first = np.ascontiguousarray(limbs[:, 0])
    if values.type.precision < 19 or not (limbs[:, 1:] != (first >> 63)[:, None]).any():
        return first
    result: Ints = limbs[:, words - 1].astype(object)
    for at in reversed(range(words - 1)):
        result = (result << 64) + limbs[:, at].view(np.uint64).astype(object)
    return result


def _numpy(values: pa.Array, tp: pa.DataType) -> npt.NDArray[Any]:
    """Return values cast to `tp`, with 0 for nulls."""
    casted = values if values.type == tp else pc.cast(values, tp)
    if casted.null_count:
        casted = pc.fill_null(casted, 0)
    numbers: npt.NDArray[Any] = casted.to_numpy(zero_copy_only=False)
    return numbers
