"""MyDecimal, TiDB's binary form of DECIMAL, and its conversion to and from Arrow decimals.

    precision u8 | fraction digits u8 | digit groups, big-endian

From the decimal point outwards, digits are cut into groups of nine, in four bytes each. The
outermost group on either side has the remaining 0 to 8 digits, in 0, 1, 1, 2, 2, 3, 3, 4, 4 bytes.

    DECIMAL(15,2)  1.10    0f 02 | 80 00 | 00 00 00 01 | 0a
                   4 + 9 + 2 digits: 2 bytes, 4 bytes, 1 byte
                  -1.10    0f 02 | 7f ff | ff ff ff fe | f5

The first bit is set for a number >= 0. For a negative number all bits are inverted, so that the
byte order of values with the same precision and fraction is their numeric order. Like TiDB, the
decoder accepts one digit more than the precision in the outermost integer group; it then checks
that the number fits the column. See TiDB's `types/mydecimal.go`.

Up to 18 digits are computed in int64, more digits in 32-bit limbs.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.tidb.codec.array import fixed_width, primitive, take
from pyspark_theflash.tidb.codec.arrow import DECIMAL128_DIGITS, MAX_PRECISION, MAX_SCALE
from pyspark_theflash.tidb.codec.reader import Mask, Positions, Reader, Words, groups

_GROUP_DIGITS: Final = 9
_GROUP_BYTES: Final = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
_INT64_DIGITS: Final = 18
_LIMB_BITS: Final = np.uint64(32)
_LIMB_MASK: Final = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of digits in `size` bytes, `offset` bytes after the first digit byte."""

    digits: int
    offset: int
    size: int


@cache
def _layout(precision: int, fraction: int) -> tuple[_Group, ...]:
    """Return the digit groups of DECIMAL(precision, fraction), outermost integer group first."""
    whole = precision - fraction
    counts = [whole % _GROUP_DIGITS] + [_GROUP_DIGITS] * (whole // _GROUP_DIGITS)
    counts += [_GROUP_DIGITS] * (fraction // _GROUP_DIGITS) + [fraction % _GROUP_DIGITS]
    result, offset = [], 0
    for digits in filter(None, counts):
        result.append(_Group(digits, offset, _GROUP_BYTES[digits]))
        offset += _GROUP_BYTES[digits]
    return tuple(result)


@cache
def _sizes() -> npt.NDArray[np.int64]:
    """Return encoded sizes, header included, by `precision | fraction << 8`; 0 if invalid."""
    table = np.zeros(1 << 16, np.int64)
    for precision in range(1, MAX_PRECISION + 1):
        for fraction in range(min(precision, MAX_SCALE) + 1):
            last = _layout(precision, fraction)[-1]
            table[precision | fraction << 8] = 2 + last.offset + last.size
    return table


def headers_at(reader: Reader, at: Positions) -> tuple[Positions, Positions]:
    """Return the header (`precision | fraction << 8`) and the size in bytes of each decimal.

    Raises:
        CodecError: A precision or fraction is invalid.
    """
    headers = reader.words_at(at).view(np.int64) & 0xFFFF
    sizes = _sizes()[headers]
    reader.check(sizes > 0, "invalid precision or fraction of a decimal", at)
    return headers, sizes


def decimals_at(
    reader: Reader, at: Positions, headers: npt.NDArray[np.int64], target: pa.DataType
) -> pa.Array:
    """Decode the decimals whose headers are at the positions `at` into an array of type `target`.

    A value whose precision or fraction differs from the target's is rescaled exactly.

    Raises:
        CodecError: A digit group is invalid, or `target` cannot represent a value exactly.
    """
    parts, order = [], []
    for header, members in groups(headers):
        parts.append(_decode(reader, at[members], header & 0xFF, header >> 8, target))
        order.append(members)
    if len(parts) <= 1:
        return parts[0] if parts else pa.nulls(0, target)
    return take(pa.concat_arrays(parts), np.argsort(np.concatenate(order)))


def _decode(
    reader: Reader, at: Positions, precision: int, fraction: int, target: pa.DataType
) -> pa.Array:
    """Decode decimals of the same precision and fraction."""
    layout = _layout(precision, fraction)
    negative, values = _digit_groups(reader, at + 2, layout)
    for group, value in zip(layout, values, strict=True):
        whole = group is layout[0] and precision > fraction and group.digits < _GROUP_DIGITS
        limit = 10 ** (group.digits + whole)
        reader.check(value < np.uint64(limit), "digit group out of range", at)
    digits = precision + bool(values[0].size and int(values[0].max()) >= 10 ** layout[0].digits)
    powers = [10**group.digits for group in layout]
    limbs: npt.NDArray[Any]
    if digits <= _INT64_DIGITS:
        limbs = _small(values, powers, negative)
    else:
        limbs = _large(values, powers, negative, 4 if digits <= DECIMAL128_DIGITS else 8)
    make_type = pa.decimal128 if digits <= DECIMAL128_DIGITS else pa.decimal256
    decoded = primitive(limbs, make_type(digits, fraction))
    try:
        return decoded if decoded.type == target else decoded.cast(target)
    except pa.ArrowInvalid as error:
        reason = f"a value of DECIMAL({precision}, {fraction}) does not fit {target}"
        raise reader.error(reason, int(at[0])) from error


def _digit_groups(
    reader: Reader, at: Positions, layout: tuple[_Group, ...]
) -> tuple[Mask, list[Words]]:
    """Return which numbers are negative, and the digit groups of their absolute values."""
    loaded = min(layout[-1].offset + layout[-1].size, 8)
    word = reader.big_endian_at(at, loaded)
    sign = np.uint64(1 << (8 * loaded - 1))
    negative = (word & sign) == 0
    word ^= sign
    inverted = np.where(negative, ~np.uint64(0), np.uint64(0))
    result = []
    for group in layout:
        mask = np.uint64((1 << 8 * group.size) - 1)
        if group.offset + group.size <= loaded:
            raw = word >> np.uint64(8 * (loaded - group.offset - group.size))
        else:
            raw = reader.big_endian_at(at + group.offset, group.size)
        result.append((raw ^ inverted) & mask)
    return negative, result


def _small(values: list[Words], powers: list[int], negative: Mask) -> npt.NDArray[np.int64]:
    """Combine groups of at most 18 digits to 128-bit two's complement: int64[n, 2], low first."""
    total = values[0]
    for value, power in zip(values[1:], powers[1:], strict=True):
        total = total * np.uint64(power) + value
    signed = total.view(np.int64)
    result = np.empty((len(signed), 2), np.int64)
    result[:, 0] = np.where(negative, -signed, signed)
    result[:, 1] = result[:, 0] >> 63
    return result


def _large(
    values: list[Words], powers: list[int], negative: Mask, limb_count: int
) -> npt.NDArray[np.uint32]:
    """Combine digit groups to two's complement of `limb_count` 32-bit limbs, lowest first."""
    limbs = [np.zeros(len(negative), np.uint64) for _ in range(limb_count)]
    for value, power in zip(values, powers, strict=True):
        carry = value
        for i, limb in enumerate(limbs):
            product = limb * np.uint64(power) + carry
            limbs[i], carry = product & _LIMB_MASK, product >> _LIMB_BITS
    return np.stack(_negate_where(limbs, negative), axis=1).astype("<u4")


def _negate_where(limbs: list[Words], negative: Mask) -> list[Words]:
    """Negate the numbers selected by `negative`; limbs are lowest first."""
    inverted = np.where(negative, _LIMB_MASK, np.uint64(0))
    carry = negative.astype(np.uint64)
    result = []
    for limb in limbs:
        total = (limb ^ inverted) + carry
        result.append(total & _LIMB_MASK)
        carry = total >> _LIMB_BITS
    return result


def encode_decimals(values: pa.Array) -> npt.NDArray[np.uint8]:
    """Encode decimals without nulls, in the array's precision and scale.

    Returns:
        uint8[n, size], header included.
    """
    precision, fraction = values.type.precision, values.type.scale
    layout = _layout(precision, fraction)
    data = fixed_width(values, values.type.byte_width).view("<u4")
    negative: Mask = data[:, -1] >> np.uint32(31) != 0
    limbs = _negate_where(list(data.T.astype(np.uint64)), negative)
    result = np.empty((len(values), 2 + layout[-1].offset + layout[-1].size), np.uint8)
    result[:, 0], result[:, 1] = precision, fraction
    for group in reversed(layout):
        limbs, digits = _divide(limbs, 10**group.digits)
        for i in range(group.size):
            shift = np.uint64(8 * (group.size - 1 - i))
            result[:, 2 + group.offset + i] = (digits >> shift).astype(np.uint8)
    result[:, 2] ^= 0x80
    result[negative, 2:] ^= 0xFF
    return result


def _divide(limbs: list[Words], divisor: int) -> tuple[list[Words], Words]:
    """Return quotient (as limbs, lowest first) and remainder."""
    quotient = list(limbs)
    remainder = np.zeros_like(limbs[0])
    for i in range(len(limbs) - 1, -1, -1):
        part = (remainder << _LIMB_BITS) | limbs[i]
        quotient[i] = part // np.uint64(divisor)
        remainder = part - quotient[i] * np.uint64(divisor)
    return quotient, remainder
