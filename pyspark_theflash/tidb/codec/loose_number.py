"""Numbers at the start of texts, as TiDB reads them when a text column becomes a number.

A text is a number as far as it looks like one: `12abc` is 12, `abc` is 0. What does not fit becomes
the nearest number that does, unless a function says otherwise. Texts are bytes, for TiDB looks at
single bytes. As `StrToInt`, `StrToFloat` (types/convert.go) and `FromString` (types/mydecimal.go).
"""

import math
import re
from decimal import Context, Decimal
from typing import Final

MIN_INT64: Final = -(2**63)
MAX_INT64: Final = 2**63 - 1
MAX_UINT64: Final = 2**64 - 1
# What Go calls space.
_SPACES: Final = "\t\n\v\f\r \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_NUMBER: Final = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL: Final = re.compile(
    rb"[ \t]*(?P<sign>[+-]?)(?P<whole>\d*)(\.(?P<part>\d*))?([eE](?P<exponent>.*))?", re.DOTALL
)
_EXPONENT: Final = re.compile(rb"(?P<sign>[+-]?)0*(?P<digits>\d*)")
# More characters before the point, sign included, are too many for an exponent.
_MAX_WHOLE: Final = 21
_INT64_DIGITS: Final = 19
# More than any integer type holds.
_BEYOND: Final = 10**20
# MyDecimal has nine words of nine digits.
_WORDS: Final = 9
_WORD_DIGITS: Final = 9
_DECIMAL_DIGITS: Final = _WORDS * _WORD_DIGITS
# Beyond, even a zero counts as too large.
_MAX_SHIFT: Final = (2**31 - 1) // 2
_MAX_DECIMAL: Final = Decimal(10**_DECIMAL_DIGITS - 1)
_WIDE: Final = Context(prec=4 * _DECIMAL_DIGITS)


def trim(text: bytes) -> bytes:
    """Without the spaces around it, those outside ASCII included."""
    return text.decode("utf-8", "surrogateescape").strip(_SPACES).encode("utf-8", "surrogateescape")


def loose_integer(text: bytes) -> int | None:
    """Rounded half away from zero, not clamped. None where TiDB finds a number it cannot read."""
    mantissa, _, exponent = _prefix(text).partition("e")
    shift = _shift_of(exponent)
    if shift is None:
        return None
    whole, point, part = mantissa.partition(".")
    sign = -1 if whole.startswith("-") else 1
    digits = whole.lstrip("+-")
    if exponent and shift >= 0 and len(whole) + shift > _MAX_WHOLE:
        # The exponent is dropped, and a point is met only where the digits before it fit.
        number = _round_half_up(digits, len(digits))
        return None if point and number <= MAX_UINT64 else sign * number
    return sign * _round_half_up(digits + part, len(digits) + shift)


def _shift_of(exponent: str) -> int | None:
    """None where it does not fit 64 bits. There may be thousands of zeros at its start."""
    digits = exponent.lstrip("+-0")
    if len(digits) > _INT64_DIGITS or int(digits or 0) > MAX_INT64:
        return None
    return int(digits or 0) * (-1 if exponent.startswith("-") else 1)


def _round_half_up(digits: str, point: int) -> int:
    """The number whose point stands after `point` digits, or something beyond all integer types."""
    if point < 0:
        return 0
    kept = digits[:point].ljust(point, "0").lstrip("0")
    if len(kept) > len(str(MAX_UINT64)):
        return _BEYOND
    return int(kept or 0) + (digits[point : point + 1] >= "5")


def loose_int64(text: bytes) -> int:
    """For a signed column, narrower ones included."""
    number = loose_integer(text)
    return 0 if number is None else min(max(number, MIN_INT64), MAX_INT64)


def loose_uint64(text: bytes) -> int | None:
    """For an unsigned column. None, which is NULL, for a negative one and one that is too large."""
    number = loose_integer(text)
    if number is None or not 0 <= number <= MAX_UINT64:
        return None
    return None if number == 0 and _keeps_minus(_prefix(text)) else number


def _keeps_minus(zero: str) -> bool:
    """Whether a text of a zero is `-0` once TiDB has made it an integer's."""
    mantissa, _, exponent = zero.partition("e")
    whole, point, _ = mantissa.partition(".")
    if not whole.startswith("-"):
        return False
    if exponent:
        return len(whole) + (_shift_of(exponent) or 0) > 1
    return whole != "-" and not (whole == "-0" and point)


def loose_float(text: bytes) -> float:
    """For FLOAT and DOUBLE."""
    number = float(_prefix(text))
    largest = math.nextafter(math.inf, 0)
    return min(max(number, -largest), largest)


def _prefix(text: bytes) -> str:
    found = _NUMBER.match(trim(text))
    return found.group().decode().lower() if found else "0"


def loose_decimal(text: bytes) -> Decimal:
    """For DECIMAL: up to 81 digits, not rounded."""
    found = _DECIMAL.match(text)
    whole, part = (found["whole"], found["part"] or b"") if found else (b"", b"")
    if found is None or not whole + part:
        return Decimal(0)
    whole = whole[-_DECIMAL_DIGITS:]
    part = part[: (_WORDS - -(-len(whole) // _WORD_DIGITS)) * _WORD_DIGITS]
    number = Decimal(f"{found['sign'].decode()}{whole.decode()}.{part.decode()}")
    return _shift(number, _decimal_exponent(found["exponent"] or b""))


def _decimal_exponent(text: bytes) -> int | None:
    """None where it does not fit 64 bits, which makes the number 0.

    From 2^63 on it makes the number the largest, whatever its sign.
    """
    found = _EXPONENT.match(trim(text))
    if found is None or not found["digits"]:
        return 0
    if len(found["digits"]) > _INT64_DIGITS + 1 or int(found["digits"]) > MAX_UINT64:
        return None
    return int(found["sign"] + found["digits"])


def _shift(number: Decimal, exponent: int | None) -> Decimal:
    if exponent is None:
        return Decimal(0)
    if exponent > MAX_INT64:
        return _MAX_DECIMAL
    if exponent > _MAX_SHIFT or (number and number.adjusted() + exponent >= _DECIMAL_DIGITS):
        return _MAX_DECIMAL.copy_sign(number)
    if not number or number.adjusted() + exponent < -_DECIMAL_DIGITS:
        return Decimal(0)
    return number.scaleb(exponent, _WIDE)
