"""Random conditions over a table with columns of every kind, and the rows of that table.

`condition(Random(seed))` gives the same text for the same seed. Any operand may occur with any
other, because TiDB's conversions of operands are compared.
"""

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from pyspark_theflash.tidb.expression.functions import FUNCTIONS


def _words(text: str) -> list[str]:
    return text.split()


COLUMNS: Final = {
    "id": "INT PRIMARY KEY",
    "ti": "TINYINT",
    "tu": "TINYINT UNSIGNED",
    "mi": "MEDIUMINT",
    "iu": "INT UNSIGNED NOT NULL",
    "b": "BIGINT",
    "bn": "BIGINT NOT NULL",
    "bu": "BIGINT UNSIGNED",
    "f": "FLOAT",
    "d": "DOUBLE",
    "du": "DOUBLE(10,2) UNSIGNED",
    "de": "DECIMAL(10,2)",
    "dw": "DECIMAL(40,20)",
    "bt": "BIT(1)",
    "b9": "BIT(9)",
    "bb": "BIT(64)",
    "yr": "YEAR",
    "yn": "YEAR NOT NULL",
    "dt": "DATE",
    "dm": "DATETIME",
    "d6": "DATETIME(6)",
    "ts": "TIMESTAMP NULL",
    "t3": "TIMESTAMP(3) NULL",
    "tm": "TIME",
    "t6": "TIME(6)",
    "ch": "CHAR(10) COLLATE utf8mb4_bin",
    "vb": "VARCHAR(20) COLLATE utf8mb4_bin",
    "vg": "VARCHAR(20) COLLATE utf8mb4_general_ci",
    "vu": "VARCHAR(20) COLLATE utf8mb4_unicode_ci",
    "tx": "TEXT COLLATE utf8mb4_bin",
    "la": "VARCHAR(20) CHARACTER SET latin1",
    "bi": "BINARY(4)",
    "vi": "VARBINARY(20)",
    "bl": "BLOB",
    "en": "ENUM('b', 'a', '10', 'C') COLLATE utf8mb4_general_ci",
    "se": "SET('x', 'y', '1', 'Z') COLLATE utf8mb4_bin",
}

CASES: Final = (
    "yr <=> 70",
    "yr < 1",
    "yr = 70",
    "70 < yn",
    "yr IN (70)",
    "yr IN (1, 70, 2024)",
    "yr BETWEEN 1 AND 70",
    "yn BETWEEN 0b101 AND 65536",
    "yr <> DATE '2024-02-29'",
    "yr = dt",
    "dm > yr",
    "CAST(yr AS DATE) < dt",
    "CAST(yr AS DATETIME) > d6",
    "CAST(2 AS YEAR) = 2",
    "NULLIF(id, en) < CAST(2 AS YEAR)",
    "dm >= IF(x'2d31' >= 2147483648, tu, yn)",
    "vu BETWEEN '-1' AND 1e1",
    "ts NOT BETWEEN 0 AND '9999-12-31'",
    "dm BETWEEN 0e0 AND '1970-01-01 00:00:01'",
    "ch BETWEEN ti AND x'31'",
    "tx NOT BETWEEN bn AND 'a'",
    "la BETWEEN '2024-02-29' AND 2.024e3",
    "de BETWEEN '1' AND 2",
    "tm BETWEEN '00:00:01' AND x'2d31'",
    "TRIM(BOTH 'a' FROM b) NOT BETWEEN 0x00 AND 99999999.99",
    "la BETWEEN (- de) AND NULLIF(b9, 'a')",
    "tx > x'61'",
    "vg = x'41'",
    "vu IN (x'41', 'b')",
    "vi = 'a'",
    "ch LIKE x'6125'",
    "dt = '0000-00-00'",
    "dt <=> '0000-00-00 00:00:00'",
    "dt = 0",
    "t3 NOT BETWEEN '0000-00-00' AND '9999-12-31'",
    "dt IN ('C', '2024-02-29 12:34:56', '0000-00-00 00:00:00')",
    "vb = vg",
    "en IN (bb, tx, 'A')",
    "b = 9.223372036854775e18",
    "bu = '18446744073709551615'",
    "(~ (id | vb)) >= vu",
    "SUBSTRING('abc', bu) = 'c'",
    "TIME '12:34:56' = ch",
    "TIME '12:34:56' LIKE '%6'",
    "CAST(t6 AS SIGNED) = -10000",
    "tm = 10",
    "tm < 99",
    "DAYOFWEEK(b9) IS NOT NULL",
    "TIME_TO_SEC(b9) = bu",
    "CAST(x'e4' AS DECIMAL(5,1)) = 228",
    "CAST(en AS DECIMAL) = 3",
    "'18446744073709551615' <= CAST((ch ^ bu) AS FLOAT)",
    "COALESCE(iu, tm, tx) <= NULLIF(2.024e3, vu)",
    "IFNULL('a', d6) > tm",
    "IFNULL(yn, b) < 65",
    "yr + 1 > 2000",
    "(ROUND(tx, bu) <> TRIM(LEADING 'a' FROM bn)) IS NOT TRUE",
    "ROUND(123.456, bu) < 123",
    "ROUND(de, 18446744073709551615) < 1",
    "ROUND(1.5e1, 18446744073709551614) = 0",
    "vi = CASE WHEN 1e10 BETWEEN '24-2-29' AND 1.10 THEN IFNULL(f, en) ELSE (- d) END",
    "yn > '18446744073709551615'",
    "'18446744073709551615' >= yn",
    "EXTRACT(YEAR_MONTH FROM (bi & du)) <> 1.5e0",
    "2 BETWEEN (tu >> b'0') AND yr",
    "vg IN (TIME '-01:00:00.5', 0x00, bl, x'61')",
    "tu IN (0x0102, vu)",
    "iu IN (' ', b'0', 2)",
    "(dt = 1.5e0) IN (LCASE(70), SUBSTRING(la, 'C', 'ß'), x'ffffffffffffffff')",
    "dw NOT IN (2, t6, NULL, x'e4')",
    "COALESCE(vi, f, bl) <> 'ß'",
    "TRIM(LEADING 'a' FROM la) <=> CAST(NULL AS DATETIME)",
    "CAST(vg AS BINARY(4)) <= 'ab'",
    "bi IN (CAST(tx AS BINARY(4)))",
    "NULLIF(1, yn) IN (b'1', -9223372036854775808)",
    "NULLIF(TRUE, yn) >= 1",
    "NOT (x'ffffffffffffffff' <> 18446744073709551615.5)",
    "CAST(en AS SIGNED) IN (CASE WHEN tx = 'C' THEN en END, (bu + 1e1))",
    "NULLIF('18446744073709551615', id) < t6",
    "CASE WHEN id > 9 THEN 'A' WHEN bi <=> -1e0 THEN bn ELSE vg END > t6",
    "CAST(yn AS DATE) BETWEEN 99 AND iu",
    "IFNULL(NULLIF(NULL, ts), f) > 0b101",
    "la <= IF(b'0' IS NULL, d6, en)",
    "(CAST(iu AS FLOAT) DIV NULLIF(se, dw)) <=> bb",
    "(~ 0.5) <=> x'ffffffffffffffff'",
    "9007199254740993 <=> 0x20000000000000",
    "9007199254740992.5 >= 0x20000000000001",
    "CAST((tu ^ de) AS DATETIME(3)) <= 18446744073709551615.5",
    "CASE 18446744073709551615 WHEN mi THEN 1e19 ELSE 99 END > IF(id > 9, yr, yn)",
    "(~ 1) IN ('ss', '18446744073709551615')",
    "(~ 1) IN (x'ffffffffffffffff', 3)",
    "9007199254740993 IN ('9007199254740992.0', 5)",
    "(~ 1) IN (18446744073709551615.0, 1.8446744073709551615e19)",
    "1 IN ('1.0', 5)",
    "1 IN ('1.4', '1abc')",
    "CAST(tu + 99999999 AS DATETIME) IS NULL",
    "CAST(tu + 699999 AS DATETIME) IS NULL",
    "CAST(tu + 700000000000 AS DATETIME) IS NULL",
)
"""Conditions with a wrong result in the past, or similar to such."""

_INTEGERS: Final = ("0", "1", "-1", "2", "9", "10", "69", "70", "99", "100", "127", "128", "255")
_LARGE: Final = _words(
    "1901 1999 2000 2024 2155 2156 -128 65536 101 20240229 20240229123456 99991231 240229 "
    "2147483647 2147483648 4294967295 -2147483648 9223372036854775807 9223372036854775808 "
    "18446744073709551615 18446744073709551616 -9223372036854775808 -9223372036854775809"
)
_DECIMALS: Final = _words(
    "0.0 0.5 -0.5 1.0 1.5 2.5 9.99 70.0 1.10 -1.1 2024.5 127.5 255.5 123456789.125 "
    "0.00000000000000000001 99999999.99 18446744073709551615.5 20240229.0"
)
_REALS: Final = _words("0e0 1e0 1e1 -1e0 5e-1 1.5e0 7e1 2.024e3 1e10 -1e10 1e19 1.1e0 1e300")
_TEXTS: Final = (
    "",
    " ",
    "a",
    "A",
    "a ",
    "ä",
    "ß",
    "ss",
    "b",
    "ab",
    "C",
    "0",
    "1",
    "-1",
    "10",
    "1.5",
    "1e1",
    "70",
    "1x",
    "x",
    "x,y",
    "0.0",
    "255.5",
    "2024",
    "2024-02-29",
    "2024-02-29 12:34:56",
    "2024-02-29 12:34:56.789",
    "2024-02-30",
    "24-2-29",
    "20240229",
    "0000-00-00",
    "0000-00-00 00:00:00",
    "2024-00-10",
    "9999-12-31",
    "1970-01-01 00:00:01",
    "12:34:56",
    "12:34:56.789",
    "-1:00:00",
    "838:59:59",
    "1 10:00:00",
    "18446744073709551615",
    "100%",
    "a_b",
)
_BYTES: Final = (
    "x'61'",
    "0x41",
    "x''",
    "x'31'",
    "0x00",
    "x'e4'",
    "0x0102",
    "x'ffffffffffffffff'",
    "b'1'",
    "b'0'",
    "b'01100001'",
    "0b101",
    "_binary'a'",
    "x'2d31'",
)
_TIMES: Final = (
    "DATE '2024-02-29'",
    "DATE '1999-12-31'",
    "TIMESTAMP '2024-02-29 12:34:56'",
    "TIMESTAMP '2024-02-29 12:34:56.789'",
    "TIME '12:34:56'",
    "TIME '-01:00:00.5'",
)
_PATTERNS: Final = ("a%", "%", "_", "", "%a", "A%", "1%", "2024%", "a\\_b", "a\\%", "%0", "_b%")
_CASTS: Final = _words(
    "SIGNED UNSIGNED DOUBLE FLOAT YEAR DATE DATETIME DATETIME(3) TIME TIME(6) DECIMAL "
    "DECIMAL(10,2) DECIMAL(3,1) CHAR CHAR(3) BINARY BINARY(4)"
)
_COLLATIONS: Final = ["utf8mb4_bin", "utf8mb4_general_ci", "utf8mb4_unicode_ci"]
_COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=", "<=>")
_ARITHMETIC: Final = ("+", "-", "*", "/", "DIV", "%", "&", "|", "^", "<<", ">>")
_UNITS: Final = _words(
    "YEAR MONTH DAY QUARTER HOUR MINUTE SECOND MICROSECOND YEAR_MONTH DAY_HOUR DAY_SECOND "
    "HOUR_MINUTE DAY_MICROSECOND MINUTE_SECOND"
)
_WRITTEN: Final = frozenset({"negate", "not", "like", "in", "between", "extract", "trim"})
"""Functions of the allow-list with a syntax other than `NAME(...)`."""
_PLAIN: Final = tuple(
    name
    for name, function in sorted(FUNCTIONS.items())
    if name.isidentifier() and name not in _WRITTEN | {"and", "or", "xor", "div", "mod", "collate"}
)

# Bytes that are no text, chosen beside texts and compared by their collation.
_ENDS_UNISTORE: Final = re.compile(r"(?=.*\b(bt|b9|bb)\b)(?=.*\b(COALESCE|IFNULL|IF|CASE)\b)")

_VALUES: Final = {
    "ti": _words("0 1 -1 127 -128 70 10 2 9"),
    "tu": _words("0 1 255 128 70 10 2"),
    "mi": _words("0 1 -1 8388607 -8388608 2024 70"),
    "iu": _words("0 1 2 4294967295 20240229 2147483648 70"),
    "b": [*_words("0 1 -1 2024 70 20240229 20240229123456"), str(2**63 - 1), str(-(2**63))],
    "bn": [*_words("0 1 -1 2024 70"), str(2**63 - 1), str(-(2**63))],
    "bu": ["0", "1", "10", "2024", str(2**63), str(2**64 - 1), str(2**63 - 1)],
    "f": _words("0 1 -1 1.5 1.1 0.1 1e10 -2.5 3e38 70"),
    "d": _words("0 1 -1 1.5 1.1 0.1 1e10 -2.5 1e300 70 -0.0"),
    "du": _words("0 1 1.5 1.1 0.25 99999999.99 70"),
    "de": _words("0 1 -1 1.5 1.10 0.5 -0.5 99999999.99 70 2.5"),
    "dw": _words(
        "0 1 -1 1.5 0.00000000000000000001 99999999999999999999 70 18446744073709551615.5"
    ),
    "bt": ["0", "1"],
    "b9": _words("0 1 255 511 97 49"),
    "bb": ["0", "1", "97", "49", str(2**63), str(2**64 - 1)],
    "yr": _words("0 1901 1970 1999 2000 2001 2024 2070 2155"),
    "yn": _words("0 1901 1970 1999 2000 2001 2024 2070 2155"),
    "dt": _words("0000-00-00 2024-02-29 1999-12-31 9999-12-31 2024-00-10 2000-01-01 2024-01-00"),
    "dm": [
        *("0000-00-00", "2024-02-29 12:34:56", "2024-02-29", "9999-12-31 23:59:59"),
        *("1999-12-31 23:59:59", "2024-00-00 10:00:00", "1970-01-01 00:00:01"),
    ],
    "d6": [
        *("0000-00-00", "2024-02-29 12:34:56.789", "2024-02-29", "9999-12-31 23:59:59.999999"),
        *("1999-12-31 23:59:59.5", "2024-02-00 10:00:00.000001"),
    ],
    "ts": [
        *("0000-00-00", "2024-02-29 12:34:56", "2024-02-29", "2038-01-19 03:14:07"),
        *("1970-01-01 00:00:01", "1999-12-31 23:59:59"),
    ],
    "t3": [
        *("0000-00-00", "2024-02-29 12:34:56.789", "2024-02-29", "2038-01-19 03:14:07.999"),
        *("1970-01-01 00:00:01", "1999-12-31 23:59:59.5"),
    ],
    "tm": _words("00:00:00 12:34:56 -01:00:00 838:59:59 -838:59:59 00:00:10 24:00:00"),
    "t6": _words("00:00:00 12:34:56.789 -01:00:00.5 838:59:59 00:00:10.000001 00:00:01"),
    "la": ["", "a", "A", "a ", "1", "-1", "10", "1.5", "2024-02-29", "x"],
    "bi": ["", "a", "A", "1", "-1", "10", "ab"],
    "en": ["b", "a", "10", "C"],
    "se": ["", "x", "x,y", "1", "Z", "x,1,Z"],
}
"""Of the other columns, `_TEXTS`, of which CHAR and VARCHAR(20) take all but the long ones."""
_STRINGS: Final = frozenset(COLUMNS) - _VALUES.keys() - {"id"}


def create_table(name: str) -> str:
    """The statement that makes the table."""
    return f"CREATE TABLE {name} ({', '.join(f'{c} {t}' for c, t in COLUMNS.items())})"


def insert_rows(name: str, rng: Random, count: int) -> str:
    """The statement that fills it, for sql_mode=''."""
    rows = [_row(number, rng) for number in range(1, count + 1)]
    return f"INSERT INTO {name} VALUES {', '.join(rows)}"


def _row(number: int, rng: Random) -> str:
    values = [str(number)]
    for name, declared in COLUMNS.items():
        if name == "id":
            continue
        if rng.random() < 0.08 and "NOT NULL" not in declared:
            values.append("NULL")
        elif name in ("bt", "b9", "bb"):
            values.append(rng.choice(_VALUES[name]))
        else:
            limit = 10 if name == "ch" else 20
            texts = _VALUES.get(name) or [t for t in _TEXTS if len(t) <= limit]
            values.append(_quoted(rng.choice(texts)))
    return f"({', '.join(values)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def condition(rng: Random) -> str:
    """A condition, mostly a comparison of few operands."""
    text = _truth(rng, rng.choice((1, 1, 1, 2, 2, 3)))
    while _ENDS_UNISTORE.search(text):
        text = _truth(rng, 1)
    return text


def _truth(rng: Random, depth: int) -> str:
    if depth > 1 and rng.random() < 0.4:
        pick = rng.randrange(4)
        if pick == 0:
            return f"NOT ({_truth(rng, depth - 1)})"
        if pick == 1:
            test = rng.choice(("TRUE", "FALSE", "NULL", "NOT TRUE", "NOT FALSE", "NOT NULL"))
            return f"({_truth(rng, depth - 1)}) IS {test}"
        operator = rng.choice(("AND", "OR", "XOR"))
        return f"({_truth(rng, depth - 1)}) {operator} ({_truth(rng, depth - 1)})"
    value = _value(rng, depth - 1, 0.8)
    negated = rng.choice(("", "", "NOT "))
    form = rng.random()
    if form < 0.5:
        operands = [value, _value(rng, depth - 1, 0.25)]
        rng.shuffle(operands)
        return f"{operands[0]} {rng.choice(_COMPARISONS)} {operands[1]}"
    if form < 0.68:
        low, high = (_value(rng, depth - 1, 0.15) for _ in range(2))
        return f"{value} {negated}BETWEEN {low} AND {high}"
    if form < 0.82:
        among = [_value(rng, depth - 1, 0.1) for _ in range(rng.randint(1, 4))]
        return f"{value} {negated}IN ({', '.join(among)})"
    if form < 0.9:
        return f"{value} {negated}LIKE {_quoted_pattern(rng)}"
    if form < 0.94:
        return f"{value} IS {negated}NULL"
    return value


def _quoted_pattern(rng: Random) -> str:
    return "'" + rng.choice(_PATTERNS) + "'"


def _value(rng: Random, depth: int, of_column: float) -> str:
    if depth > 0 and rng.random() < 0.6:
        return rng.choice(_COMPOUND)(rng, depth)
    return rng.choice(tuple(COLUMNS)) if rng.random() < of_column else _constant(rng)


def _constant(rng: Random) -> str:
    kinds: Sequence[Callable[[], str]] = (
        lambda: rng.choice(_INTEGERS),
        lambda: rng.choice(_INTEGERS),
        lambda: rng.choice(_LARGE),
        lambda: rng.choice(_DECIMALS),
        lambda: rng.choice(_REALS),
        lambda: _quoted(rng.choice(_TEXTS)),
        lambda: _quoted(rng.choice(_TEXTS)),
        lambda: _quoted(rng.choice(_TEXTS)),
        lambda: rng.choice(_BYTES),
        lambda: rng.choice(_TIMES),
        lambda: rng.choice(("NULL", "TRUE", "FALSE")),
    )
    return rng.choice(kinds)()


def _operand(rng: Random, depth: int) -> str:
    return _value(rng, depth - 1, 0.7)


def _call(rng: Random, depth: int) -> str:
    name = rng.choice(_PLAIN)
    function = FUNCTIONS[name]
    count = rng.randint(function.fewest, min(function.most, function.fewest + 2))
    return f"{name.upper()}({', '.join(_operand(rng, depth) for _ in range(count))})"


def _case(rng: Random, depth: int) -> str:
    parts = [
        f"WHEN {_truth(rng, depth - 1)} THEN {_operand(rng, depth)}"
        for _ in range(rng.choice((1, 1, 2)))
    ]
    otherwise = f" ELSE {_operand(rng, depth)}" if rng.random() < 0.7 else ""
    return f"CASE {' '.join(parts)}{otherwise} END"


def _case_of(rng: Random, depth: int) -> str:
    of, when, then, otherwise = (_operand(rng, depth) for _ in range(4))
    return f"CASE {of} WHEN {when} THEN {then} ELSE {otherwise} END"


_COMPOUND: Final[Sequence[Callable[[Random, int], str]]] = (
    _call,
    _call,
    _call,
    lambda rng, depth: f"({_operand(rng, depth)} {rng.choice(_ARITHMETIC)} {_operand(rng, depth)})",
    lambda rng, depth: f"({_operand(rng, depth)} {rng.choice(_ARITHMETIC)} {_operand(rng, depth)})",
    lambda rng, depth: f"(- {_operand(rng, depth)})",
    lambda rng, depth: f"(~ {_operand(rng, depth)})",
    lambda rng, depth: f"CAST({_operand(rng, depth)} AS {rng.choice(_CASTS)})",
    lambda rng, depth: f"CAST({_operand(rng, depth)} AS {rng.choice(_CASTS)})",
    lambda rng, depth: f"({_operand(rng, depth)} COLLATE {rng.choice(_COLLATIONS)})",
    lambda rng, depth: (
        f"IF({_truth(rng, depth - 1)}, {_operand(rng, depth)}, {_operand(rng, depth)})"
    ),
    lambda rng, depth: f"IFNULL({_operand(rng, depth)}, {_operand(rng, depth)})",
    lambda rng, depth: f"NULLIF({_operand(rng, depth)}, {_operand(rng, depth)})",
    lambda rng, depth: (
        f"COALESCE({_operand(rng, depth)}, {_operand(rng, depth)}, {_operand(rng, depth)})"
    ),
    lambda rng, depth: f"EXTRACT({rng.choice(_UNITS)} FROM {_operand(rng, depth)})",
    lambda rng, depth: (
        f"TRIM({rng.choice(('BOTH', 'LEADING', 'TRAILING'))} 'a' FROM {_operand(rng, depth)})"
    ),
    lambda rng, depth: f"({_truth(rng, depth - 1)})",
    _case,
    _case_of,
)
