"""Parsing of numbers at the start of texts, as TiDB does when a text column becomes a number.

The longest numeric prefix is parsed: `12abc` is 12, `abc` is 0. A number out of range becomes the
nearest number in range unless stated otherwise. Texts are bytes, because TiDB examines single
bytes. See TiDB's `StrToInt`, `StrToFloat` (types/convert.go) and `FromString` (types/mydecimal.go).
"""

import math
import re
from decimal import Context, Decimal
from typing import Final

MIN_INT64: Final = -(2**63)
MAX_INT64: Final = 2**63 - 1
MAX_UINT64: Final = 2**64 - 1
# The characters that Go's `unicode.IsSpace` accepts.
_SPACES: Final = "\t\n\v\f\r \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_NUMBER: Final = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL: Final = re.compile(
    rb"[ \t]*(?P<sign>[+-]?)(?P<whole>\d*)(\.(?P<part>\d*))?([eE](?P<exponent>.*))?", re.DOTALL
)
_EXPONENT: Final = re.compile(rb"(?P<sign>[+-]?)0*(?P<digits>\d*)")
# TiDB ignores an exponent that gives more characters than this before the point, sign included.
_MAX_WHOLE: Final = 21
_INT64_DIGITS: Final = 19
# A number out of range of all integer types.
_OUT_OF_RANGE: Final = 10**20
# MyDecimal has nine words of nine digits each.
_WORDS: Final = 9
_WORD_DIGITS: Final = 9
_DECIMAL_DIGITS: Final = _WORDS * _WORD_DIGITS
# A number with a larger exponent, even a zero, becomes the largest decimal.
_MAX_SHIFT: Final = (2**31 - 1) // 2
_MAX_DECIMAL: Final = Decimal(10**_DECIMAL_DIGITS - 1)
_WIDE: Final = Context(prec=4 * _DECIMAL_DIGITS)


def trim(text: bytes) -> bytes:
    """Remove leading and trailing spaces, including those outside ASCII."""
    return text.decode("utf-8", "surrogateescape").strip(_SPACES).encode("utf-8", "surrogateescape")


def loose_integer(text: bytes) -> int | None:
    """Parse an integer, rounded half away from zero, not clamped; None if TiDB cannot parse it."""
    mantissa, _, exponent = _prefix(text).partition("e")
    shift = _parse_exponent(exponent)
    if shift is None:
        return None
    whole, point, part = mantissa.partition(".")
    sign = -1 if whole.startswith("-") else 1
    digits = whole.lstrip("+-")
    if exponent and shift >= 0 and len(whole) + shift > _MAX_WHOLE:
        # TiDB drops the exponent, and fails at the point if the digits before it fit.
        number = _round_half_up(digits, len(digits))
        return None if point and number <= MAX_UINT64 else sign * number
    return sign * _round_half_up(digits + part, len(digits) + shift)


def _parse_exponent(exponent: str) -> int | None:
    """Parse an exponent, which may have thousands of leading zeros; None if it exceeds 64 bits."""
    digits = exponent.lstrip("+-0")
    if len(digits) > _INT64_DIGITS or int(digits or 0) > MAX_INT64:
        return None
    return int(digits or 0) * (-1 if exponent.startswith("-") else 1)


def _round_half_up(digits: str, point: int) -> int:
    """Round the number with its point after `point` digits; huge numbers give `_OUT_OF_RANGE`."""
    if point < 0:
        return 0
    whole = digits[:point].ljust(point, "0").lstrip("0")
    if len(whole) > len(str(MAX_UINT64)):
        return _OUT_OF_RANGE
    return int(whole or 0) + (digits[point : point + 1] >= "5")


def loose_int64(text: bytes) -> int:
    """Parse an integer for a signed column, clamped to 64 bits also for narrower types."""
    number = loose_integer(text)
    return 0 if number is None else min(max(number, MIN_INT64), MAX_INT64)


def loose_uint64(text: bytes) -> int | None:
    """Parse an integer for an unsigned column. None (NULL) if it is negative or too large."""
    number = loose_integer(text)
    if number is None or not 0 <= number <= MAX_UINT64:
        return None
    return None if number == 0 and _is_negative_zero(_prefix(text)) else number


def _is_negative_zero(zero: str) -> bool:
    """Whether TiDB converts the text of a zero to the integer text `-0`."""
    mantissa, _, exponent = zero.partition("e")
    whole, point, _ = mantissa.partition(".")
    if not whole.startswith("-"):
        return False
    if exponent:
        return len(whole) + (_parse_exponent(exponent) or 0) > 1
    return whole != "-" and not (whole == "-0" and point)


def loose_float(text: bytes) -> float:
    """Parse a number for FLOAT and DOUBLE."""
    number = float(_prefix(text))
    largest = math.nextafter(math.inf, 0)
    return min(max(number, -largest), largest)


def _prefix(text: bytes) -> str:
    """Return the numeric prefix of a text, or "0"."""
    match = _NUMBER.match(trim(text))
    return match.group().decode().lower() if match else "0"


def loose_decimal(text: bytes) -> Decimal:
    """Parse a number for DECIMAL: up to 81 digits, not rounded."""
    match = _DECIMAL.match(text)
    whole, part = (match["whole"], match["part"] or b"") if match else (b"", b"")
    if match is None or not whole + part:
        return Decimal(0)
    whole = whole[-_DECIMAL_DIGITS:]
    part = part[: (_WORDS - -(-len(whole) // _WORD_DIGITS)) * _WORD_DIGITS]
    number = Decimal(f"{match['sign'].decode()}{whole.decode()}.{part.decode()}")
    return _shift(number, _decimal_exponent(match["exponent"] or b""))


def _decimal_exponent(text: bytes) -> int | None:
    """Parse an exponent; return None if it exceeds 64 bits."""
    match = _EXPONENT.match(trim(text))
    if match is None or not match["digits"]:
        return 0
    if len(match["digits"]) > _INT64_DIGITS + 1 or int(match["digits"]) > MAX_UINT64:
        return None
    return int(match["sign"] + match["digits"])


def _shift(number: Decimal, exponent: int | None) -> Decimal:
    """Apply an exponent as TiDB does: None gives 0, 2^63 and above the largest decimal."""
    if exponent is None:
        return Decimal(0)
    if exponent > MAX_INT64:
        return _MAX_DECIMAL
    if exponent > _MAX_SHIFT or (number and number.adjusted() + exponent >= _DECIMAL_DIGITS):
        return _MAX_DECIMAL.copy_sign(number)
    if not number or number.adjusted() + exponent < -_DECIMAL_DIGITS:
        return Decimal(0)
    return number.scaleb(exponent, _WIDE)
