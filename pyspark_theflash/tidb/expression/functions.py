"""Table of the supported functions and operators, with their numbers of arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.expression import arithmetic, choice, comparison, dates, numbers, strings
from pyspark_theflash.tidb.expression.failure import LackingError
from pyspark_theflash.tidb.expression.vector import EXPLICIT, Kind, Vector

MAX_ARGUMENTS: Final = 4096


class Function(NamedTuple):
    """Implementation over evaluated arguments; it takes `fewest` to `most` of them."""

    apply: Callable[[Sequence[Vector]], Vector]
    fewest: int
    most: int


def _collate(operands: Sequence[Vector]) -> Vector:
    text, name = operands[0], str(operands[1].constant())
    if text.kind is not Kind.TEXT or text.is_bytes or text.number is not None:
        raise LackingError("COLLATE of a value that is no text")
    charset = name.partition("_")[0]
    if charset != text.collation.charset:
        raise LackingError(f"COLLATE {name} of a text of charset {text.collation.charset}")
    collation = FieldType(MySQLType.VARCHAR, charset=charset, collate=name)
    return replace(text, collation=collation, coercibility=EXPLICIT, number=None)


_UNARY: Final[Mapping[str, Callable[[Sequence[Vector]], Vector]]] = {
    "negate": arithmetic.negate,
    "~": arithmetic.bit_not,
    "not": comparison.logical_not,
    "is null": comparison.is_null,
    "isnull": comparison.is_null,
    "is true": comparison.is_true,
    "is false": comparison.is_false,
    "abs": numbers.absolute,
    "ceil": numbers.ceiling,
    "ceiling": numbers.ceiling,
    "floor": numbers.floor,
    "sign": numbers.sign,
    "upper": strings.upper,
    "ucase": strings.upper,
    "lower": strings.lower,
    "lcase": strings.lower,
    "length": strings.length,
    "octet_length": strings.length,
    "char_length": strings.char_length,
    "character_length": strings.char_length,
    "ltrim": strings.ltrim,
    "rtrim": strings.rtrim,
    "md5": strings.md5,
    "sha": strings.sha1,
    "sha1": strings.sha1,
    "crc32": strings.crc32,
    "hex": strings.hexadecimal,
    "year": dates.year,
    "month": dates.month,
    "day": dates.day,
    "dayofmonth": dates.day,
    "dayofweek": dates.day_of_week,
    "dayofyear": dates.day_of_year,
    "weekday": dates.weekday,
    "quarter": dates.quarter,
    "hour": dates.hour,
    "minute": dates.minute,
    "second": dates.second,
    "microsecond": dates.microsecond,
    "date": dates.date,
    "to_days": dates.to_days,
    "to_seconds": dates.to_seconds,
    "time_to_sec": dates.time_to_sec,
    "unix_timestamp": dates.unix_timestamp,
}
_BINARY: Final[Mapping[str, Callable[[Sequence[Vector]], Vector]]] = {
    "+": arithmetic.add,
    "-": arithmetic.subtract,
    "*": arithmetic.multiply,
    "/": arithmetic.divide,
    "div": arithmetic.divide_whole,
    "%": arithmetic.remainder,
    "mod": arithmetic.remainder,
    "&": arithmetic.bit_and,
    "|": arithmetic.bit_or,
    "^": arithmetic.bit_xor,
    "<<": arithmetic.shift_left,
    ">>": arithmetic.shift_right,
    "=": comparison.equal,
    "<>": comparison.not_equal,
    "<": comparison.less,
    "<=": comparison.less_equal,
    ">": comparison.greater,
    ">=": comparison.greater_equal,
    "<=>": comparison.null_safe_equal,
    "and": comparison.logical_and,
    "or": comparison.logical_or,
    "xor": comparison.logical_xor,
    "collate": _collate,
    "left": strings.left,
    "right": strings.right,
    "datediff": dates.date_diff,
    "extract": dates.extract,
}

FUNCTIONS: Final[Mapping[str, Function]] = {
    **{name: Function(apply, 1, 1) for name, apply in _UNARY.items()},
    **{name: Function(apply, 2, 2) for name, apply in _BINARY.items()},
    "between": Function(comparison.between, 3, 3),
    "like": Function(comparison.like, 3, 3),
    "in": Function(comparison.is_in, 2, MAX_ARGUMENTS),
    "round": Function(numbers.round_number, 1, 2),
    "greatest": Function(choice.greatest, 2, MAX_ARGUMENTS),
    "least": Function(choice.least, 2, MAX_ARGUMENTS),
    "concat": Function(strings.concat, 1, MAX_ARGUMENTS),
    "concat_ws": Function(strings.concat_ws, 2, MAX_ARGUMENTS),
    "substring": Function(strings.substring, 2, 3),
    "mid": Function(strings.substring, 3, 3),
    "trim": Function(strings.trim, 3, 3),
    "replace": Function(strings.replace_text, 3, 3),
    "yearweek": Function(dates.year_week, 1, 2),
}
