"""Random rows, and random filters, projections, limits and aggregates of them, as SQL for Spark.

The answers do not depend on the order in which Spark adds rows up: doubles are sums of quarters,
infinities and NaN, decimals that overflow a sum are all positive, and rows selected by a LIMIT are
counted or completely sorted.
"""

import math
from collections.abc import Sequence
from decimal import Decimal
from random import Random
from typing import Any, Final

from pyspark_theflash.testing.stores import Version, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.codec.time import DAY_US

ROWS: Final = 300
_DAY: Final = 19_000


def _decimal(name: str, digits: int, scale: int) -> dict[str, Any]:
    return column(name, MySQLType.NEWDECIMAL, flen=digits, decimal=scale)


TABLE: Final = table_info(
    1,
    "d.t",
    [
        id_column(),
        column("tiny", MySQLType.TINY),
        column("small", MySQLType.SHORT),
        column("medium", MySQLType.INT24),
        column("i", MySQLType.LONG),
        column("big", MySQLType.LONGLONG),
        column("ubig", MySQLType.LONGLONG, flag=ColumnFlag.UNSIGNED),
        _decimal("dec4", 4, 2),
        _decimal("dec9", 9, 3),
        _decimal("dec38", 38, 10),
        _decimal("vast", 38, 0),
        column("single", MySQLType.FLOAT),
        column("twice", MySQLType.DOUBLE),
        column("word", MySQLType.VARCHAR, collate="utf8mb4_general_ci"),
        column("text", MySQLType.VARCHAR, collate="utf8mb4_bin", flag=ColumnFlag.NOT_NULL),
        column("data", MySQLType.BLOB, charset="binary"),
        column("day", MySQLType.DATE),
        column("at", MySQLType.DATETIME, decimal=6),
        column("since", MySQLType.TIMESTAMP, decimal=6),
        column("span", MySQLType.TIME),
    ],
)
_FLOATS: Final = [0.0, -0.0, 0.25, -1.5, 4.0, math.inf, -math.inf, math.nan]
_VALUES: Final[dict[str, Sequence[Any]]] = {
    "tiny": [-128, -1, 0, 1, 2, 5, 127],
    "small": [-32768, -1, 0, 1, 7, 32767],
    "medium": [-8388608, 0, 1, 100, 8388607],
    "i": [-(2**31), -1, 0, 1, 5, 2**31 - 1],
    "big": [-(2**63), -1, 0, 1, 5, 2**40, 2**63 - 1],
    "ubig": [0, 1, 2**63, 2**64 - 1],
    "dec4": [Decimal(n) for n in ("-99.99", "-0.01", "0.00", "0.50", "1.00", "99.99")],
    "dec9": [Decimal(n) for n in ("-999999.999", "0.000", "0.125", "7.000", "999999.999")],
    "dec38": [Decimal(f"{n}.{n}000000000") for n in (0, 1, 2, 9)],
    "vast": [Decimal(10**30 + 7), Decimal(6 * 10**37), Decimal(0), Decimal("9" * 38)],
    "single": _FLOATS,
    "twice": [*_FLOATS, 0.5],
    "word": ["", "a", "A", "tea", "Tea", "tea ", "öl", "🙂", "é"],
    "text": ["", "tea", "TEA", "x", "xyz"],
    "data": [b"", b"\x00", b"a", b"\xff"],
    "day": [_DAY - 1, _DAY, _DAY + 1, _DAY + 400],
    "at": [_DAY * DAY_US, _DAY * DAY_US + 1, (_DAY + 1) * DAY_US - 1],
    "since": [_DAY * DAY_US, _DAY * DAY_US - 1, (_DAY + 40) * DAY_US],
    "span": [0, -1_000_000, 3_600_000_000, 838 * 3_600_000_000],
}
WHOLE: Final = ("tiny", "small", "medium", "i", "big", "id")
DECIMALS: Final = ("dec4", "dec9", "dec38", "ubig")
FLOATS: Final = ("single", "twice")
TEXTS: Final = ("word", "text")
TIMES: Final = ("day", "at", "since", "span")
_NUMBERS: Final = (
    *("0", "1", "-1", "5", "127", "2147483648", "9223372036854775807"),
    *("1e0", "0.5", "7.000", "2.5", "-0.01", "9" * 38, "cast(NULL AS int)"),
    *("double('inf')", "double('NaN')", "float(0.25)"),
)
_LITERALS: Final[dict[str, Sequence[str]]] = {
    "number": _NUMBERS,
    "word": ["''", "'a'", "'tea'", "'TEA'", "'é'", "'tea '", "cast(NULL AS string)"],
    "data": ["X''", "X'00'", "X'61'"],
    "day": ["DATE '2022-01-08'", "DATE '2022-01-07'", "cast(NULL AS date)"],
    "at": ["TIMESTAMP_NTZ '2022-01-08 00:00:00'", "TIMESTAMP_NTZ '2022-01-08 00:00:00.000001'"],
    "since": ["TIMESTAMP '2022-01-08 00:00:00Z'", "TIMESTAMP '2022-01-07 23:59:59.999999Z'"],
    "span": ["INTERVAL '0 00:00:00' DAY TO SECOND", "INTERVAL '0 01:00:00' DAY TO SECOND"],
}
_COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=", "<=>")
_DEPTH: Final = 3
_PARTS: Final = (
    *("year", "quarter", "month", "day"),
    *("dayofyear", "dayofweek", "weekday", "weekofyear"),
)
_UNITS: Final = (
    *("YEAR", "QUARTER", "MON", "WEEK", "DD"),
    *("HOUR", "MINUTE", "SECOND", "MILLISECOND"),
)


def random_rows(chance: Random) -> list[Version]:
    """Rows of `TABLE`, many alike, some with nothing but NULLs."""
    rows: list[Version] = []
    for n in range(1, ROWS + 1):
        values: list[Any] = [n]
        is_empty = chance.random() < 0.05
        for each in TABLE.public_columns[1:]:
            is_null = each.name != "text" and (is_empty or chance.random() < 0.15)
            values.append(None if is_null else chance.choice(_VALUES[each.name]))
        rows.append((n, 150, values))
    return rows


class Queries:
    """Makes one query after the other; `{t}` stands for the table."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def next(self) -> str:
        """A SELECT of any shape."""
        return self._one(
            self._rows,
            self._totals,
            self._groups,
            self._groups,
            self._first,
            self._counted,
            self._exists,
            self._distinct,
            self._distinct,
            self._joined,
            self._windows,
        )()

    # -- shapes

    def _rows(self) -> str:
        return f"SELECT id, {self._value()} FROM {{t}} WHERE {self.condition()}"

    def _totals(self) -> str:
        return f"SELECT {self._aggregates()} FROM {{t}}{self._where()}"

    def _groups(self) -> str:
        groups = [self._one(self._computed(), *self._chance.sample([*_VALUES], 2))]
        if self._chance.random() < 0.4:
            groups.append(self._computed())
        having = self._one("", "", " HAVING count(*) > 1")
        by = ", ".join(groups)
        return f"SELECT {by}, {self._aggregates()} FROM {{t}}{self._where()} GROUP BY {by}{having}"

    def _first(self) -> str:
        keys = [f"{self._value()}{self._one('', ' DESC', ' NULLS LAST')}" for _ in range(2)]
        rest = f"LIMIT {self._chance.choice([1, 3, 40, 1000])}{self._one('', '', ' OFFSET 2')}"
        order = ", ".join([*keys[: self._chance.randint(0, 2)], "id"])
        return f"SELECT id, word, dec4 FROM {{t}}{self._where()} ORDER BY {order} {rest}"

    def _counted(self) -> str:
        what = self._one("*", "word", "1")
        limit = self._chance.choice([0, 1, 10, 299, 5000])
        return f"SELECT count(*) FROM (SELECT {what} FROM {{t}}{self._where()} LIMIT {limit})"

    def _exists(self) -> str:
        negated = self._one("", "NOT ")
        return f"SELECT 1 WHERE {negated}EXISTS (SELECT * FROM {{t}}{self._where()})"

    def _distinct(self) -> str:
        name, by = self._one(*_VALUES), self._one(*_VALUES)
        what = self._one(name, f"{name}, {by}", self._computed())
        more = self._one("count(*)", "sum(i)", "sum(dec9), max(at)", "min(word), count(twice)")
        distinct = self._one(
            f"count(DISTINCT {what}), {more}",
            f"count(DISTINCT {what})",
            f"sum(DISTINCT {self._one(*WHOLE[:4], 'dec4')}), {more}",
            f"count(DISTINCT {name}), count(DISTINCT {by})",
        )
        group = self._one(by, self._computed())
        return self._one(
            f"SELECT DISTINCT {what} FROM {{t}}{self._where()}",
            f"SELECT {distinct} FROM {{t}}{self._where()}",
            f"SELECT {group}, {distinct} FROM {{t}}{self._where()} GROUP BY {group}",
        )

    def _windows(self) -> str:
        call = self._one("row_number()", "rank()", "lag(dec4, 2, 0)", "max(word)", "sum(tiny)")
        by = self._one(*_VALUES, self._computed())
        frame = self._one("", " ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING")
        over = f"PARTITION BY {by} ORDER BY id{frame if call.startswith(('max', 'sum')) else ''}"
        return f"SELECT id, {call} OVER ({over}) FROM {{t}}{self._where()}"

    def _joined(self) -> str:
        left = f"(SELECT id, small, {self._value()} AS v FROM {{t}}{self._where()})"
        right = f"(SELECT id AS other, tiny FROM {{t}}{self._where()})"
        return f"SELECT count(*), count(v), sum(tiny) FROM {left} JOIN {right} ON id = other"

    # -- parts

    def _where(self) -> str:
        return self._one("", f" WHERE {self.condition()}", f" WHERE {self.condition()}")

    def _aggregates(self) -> str:
        made = [self._aggregate() for _ in range(self._chance.randint(1, 4))]
        return ", ".join(made)

    def _aggregate(self) -> str:
        name = self._one(*_VALUES)
        return self._one(
            "count(*)",
            f"count({name})",
            f"min({name})",
            f"max({name})",
            f"sum({self._one(*WHOLE[:4], *DECIMALS, *FLOATS, 'vast')})",
            f"avg({self._one(*WHOLE[:4], *DECIMALS)})",
            f"sum({self._one('dec4 * dec4', 'dec4 + dec9', 'dec4 * (1 - dec9)', 'tiny * dec4')})",
            f"sum(CASE WHEN {self.condition(1)} THEN {self._one('1', 'dec4', 'tiny')} END)",
            f"count({self.condition(1)})",
            f"{self._one('count', 'min', 'max')}({self._computed()})",
            f"sum({self._small()})",
        )

    def _computed(self) -> str:
        """Something to group by, or to count."""
        part = self._one(*_PARTS)
        unit = self._one(*_UNITS)
        same = self._one(("'x'", "text"), ("word", "'tea'"), ("tiny", "5"), ("day", "NULL"))
        condition = self.condition(1)
        return self._one(
            f"date_trunc('{unit}', {self._one('since', 'at', 'day')})",
            f"{part}({self._one('since', 'at', 'day', 'to_date(since)')})",
            f"{self._one('hour', 'minute', 'second')}({self._one('since', 'at')})",
            f"trunc(day, '{self._one('YEAR', 'Q', 'QUARTER', 'MM', 'WEEK')}')",
            f"to_date({self._one('since', 'at')})",
            f"({condition})",
            f"CASE WHEN {condition} THEN 'more' WHEN tiny <= 0 THEN word END",
            f"CASE WHEN tiny < 100 THEN tiny + 20 WHEN {condition} THEN {self._small()} ELSE 0 END",
            f"if({condition}, {same[0]}, {same[1]})",
            f"coalesce({self._one('word, text', 'tiny, small', 'dec4, 0', 'day, DATE(since)')})",
            f"substring({self._one(*TEXTS)}, {self._one('1, 1', '2', '0, 2', '-2, 1', '2, 0')})",
            f"{self._one('upper', 'length', 'trim')}({self._one(*TEXTS)})",
            self._small(),
            f"floor({self._one('twice / 4', 'dec4', 'twice')})",
            f"cast({self._one('tiny', 'dec4', 'single', 'twice')} AS {self._one('double', 'int')})",
        )

    def _small(self) -> str:
        """Arithmetic that mostly fits."""
        name = self._one(*WHOLE)
        return self._one(
            f"{name} % {self._one('7', '-7', '128', '2147483648')}",
            f"tiny {self._one('+', '-', '*')} {self._one('1', '300', 'small')}",
            f"{self._one('small', 'i', 'big')} - {self._one('1', 'tiny')}",
            "length(word) * 2",
            "twice * 0.5D",
        )

    def _value(self, depth: int = 1) -> str:
        return self._one(*_VALUES, self._number(depth), f"({self.condition(depth)})")

    def _number(self, depth: int) -> str:
        plain = self._one(*WHOLE, *DECIMALS, *FLOATS)
        if depth <= 0:
            return plain
        return self._one(
            plain,
            plain,
            self._one(*_LITERALS["number"]),
            f"(dec4 {self._one('+', '-', '*')} {self._one('dec4', 'dec9', '1.5', 'tiny')})",
            f"(tiny {self._one('+', '-')} {self._one('1', 'small', 'dec4')})",
            f"(CASE WHEN {self.condition(depth - 1)} THEN {self._one('tiny', 'small', 'i')}"
            f" {self._one('', 'ELSE 0 ')}END)",
            f"coalesce({plain}, 0)",
            f"cast(dec4 AS {self._one('double', 'decimal(20,4)')})",
            f"cast(tiny AS {self._one('bigint', 'double', 'decimal(20,4)')})",
        )

    def condition(self, depth: int = _DEPTH) -> str:
        """Something that is true, false or NULL."""
        if depth > 1 and self._chance.random() < 0.55:
            left, right = self.condition(depth - 1), self.condition(depth - 1)
            return self._one(
                f"({left} AND {right})",
                f"({left} OR {right})",
                f"NOT ({left})",
                f"coalesce({left}, {right})",
                f"(CASE WHEN {left} THEN {right} END)",
                f"(({left}) <=> ({right}))",
                f"(({left}) IS {self._one('', 'NOT ')}NULL)",
            )
        return self._one(
            self._numbers(depth), self._numbers(depth), self._texts(), self._times(), self._others()
        )

    def _numbers(self, depth: int) -> str:
        left, right = self._number(depth - 1), self._number(depth - 1)
        literals = ", ".join(self._chance.sample(_LITERALS["number"], 3))
        return self._one(
            f"{left} {self._one(*_COMPARISONS)} {right}",
            f"{left} {self._one(*_COMPARISONS)} {self._one(*_LITERALS['number'])}",
            f"{self._one(*_LITERALS['number'])} {self._one(*_COMPARISONS)} {left}",
            f"{left} {self._one('', 'NOT ')}IN ({literals})",
            f"{left} BETWEEN {self._one(*_LITERALS['number'])} AND {right}",
        )

    def _texts(self) -> str:
        name, literal = self._one(*TEXTS), self._one(*_LITERALS["word"])
        return self._one(
            f"{name} {self._one(*_COMPARISONS)} {literal}",
            f"word {self._one(*_COMPARISONS)} text",
            f"{name} LIKE '{self._one('t%', '%a', '%e%', 'tea', '%', '_')}'",
            f"{name} {self._one('', 'NOT ')}IN ({literal}, 'tea', {self._one('NULL', literal)})",
            f"length({name}) > 2",
            f"upper({name}) = 'TEA'",
        )

    def _times(self) -> str:
        name = self._one(*TIMES)
        return self._one(
            f"{name} {self._one(*_COMPARISONS)} {self._one(*_LITERALS[name])}",
            f"{name} IN ({', '.join(_LITERALS[name])})",
            "day < since",
            f"at {self._one(*_COMPARISONS)} since",
            f"day = {self._one('to_date(since)', 'date(at)')}",
        )

    def _others(self) -> str:
        return self._one(
            f"data {self._one(*_COMPARISONS)} {self._one(*_LITERALS['data'])}",
            f"{self._one(*_VALUES)} IS {self._one('', 'NOT ')}NULL",
            f"cast({self._one('tiny', 'small')} AS boolean)",
            "vast > 6e37",
            "cast(NULL AS boolean)",
            self._one("true", "false"),
        )

    def _one(self, *choices: Any) -> Any:
        return self._chance.choice(choices)
