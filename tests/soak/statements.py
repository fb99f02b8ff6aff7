"""Random statements over some tables, of which it is known what columns they should have.

Rejected statements do not change the tables: `done` is called for each executed one.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Final

TYPES: Final = (
    *("TINYINT", "SMALLINT UNSIGNED", "MEDIUMINT", "INT", "INT UNSIGNED", "BIGINT"),
    *("BIGINT UNSIGNED", "DECIMAL(10,2)", "DECIMAL(30,5)", "FLOAT", "DOUBLE", "BIT(8)", "BIT(33)"),
    *("YEAR", "DATE", "DATETIME", "DATETIME(3)", "TIMESTAMP", "TIMESTAMP(6)", "TIME", "TIME(2)"),
    *("CHAR(5)", "VARCHAR(40)", "VARCHAR(4)", "TEXT", "BINARY(6)", "VARBINARY(20)", "BLOB"),
    *("ENUM('a','b','1')", "SET('x','y','z')", "JSON"),
)
VALUES: Final = (
    *("NULL", "0", "1", "-1", "7", "12.5", "255", "1e10", "99999", "20200229", "1999", "''", "'a'"),
    *("'b'", "'x,z'", "'1'", "'12'", "'-3.5'", "'2020-02-29'", "'2020-02-29 10:11:12.345678'"),
    *("'1999-12-31 23:59:59.9'", "'2021-03-28 01:30:00'", "'2021-11-07 01:30:00'", "'0000-00-00'"),
    *("'2020-02-31'", "'10:11:12.3456'", "'-12:00:00'", "'100:00:00'", "'null'", "'[1, 2.5]'"),
    *("""'{"k": "é"}'""", "'\"text\"'", "'text  '", "'é'", "x'00FF'", "b'101'", "NOW()"),
)
"""Literals for columns of any type; many fit some types only."""
ZONES: Final = ("+00:00", "+08:00", "-05:30", "America/New_York", "Europe/Berlin", "Asia/Kolkata")
MODES: Final = ("''", "''", "DEFAULT", "DEFAULT", "'ALLOW_INVALID_DATES'", "'STRICT_TRANS_TABLES'")
KEYS: Final = (
    "id INT PRIMARY KEY",
    "id BIGINT UNSIGNED PRIMARY KEY",
    "id INT PRIMARY KEY NONCLUSTERED",
    "id INT",
    "id VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY CLUSTERED",
)
_MOST_TABLES: Final = 4
_MOST_COLUMNS: Final = 9


class Statements:
    """One history's statements."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._columns: dict[str, list[str]] = {}
        self._pairs: dict[str, list[str]] = {}
        """Tables of an INT and some other columns, by the name that follows `x` and `y`.

        `y` is partitioned; as long as the column ids are the same, `x` is exchanged with it.
        """
        self._names = 0
        self._after: dict[str, Callable[[], None]] = {}

    def step(self) -> Iterator[str]:
        """Some statements to run one after the other."""
        columns = self._columns
        if len(columns) < 2 or (len(columns) < _MOST_TABLES and self._rng.random() < 0.05):
            yield self._create()
            return
        if self._rng.random() < 0.25:
            yield from self._pair()
            return
        table = self._rng.choice(sorted(columns))
        kinds = (self._write, self._add, self._modify, self._drop, self._session, self._whole)
        (kind,) = self._rng.choices(kinds, (8, 3, 5, 1, 3, 1))
        yield from kind(table)

    def done(self, statement: str) -> None:
        """TiDB has carried it out."""
        after = self._after.pop(statement, None)
        if after is not None:
            after()

    def _create(self) -> str:
        name = self._new("t")
        added = [self._new("c") for _ in range(self._rng.randint(1, 4))]
        columns = [f"{column} {self._rng.choice(TYPES)}" for column in added]
        text = f"CREATE TABLE {name} ({', '.join([self._rng.choice(KEYS), *columns])})"
        return self._then(text, lambda: self._columns.update({name: added}))

    def _write(self, table: str) -> Iterator[str]:
        columns = self._columns[table]
        for _ in range(self._rng.randint(1, 6)):
            handle, kind = self._rng.randrange(30), self._rng.random()
            if kind < 0.6 or not columns:
                named = self._rng.sample(columns, self._rng.randint(0, len(columns)))
                values = [f"'{handle}'", *(self._rng.choice(VALUES) for _ in named)]
                names = ", ".join(["id", *named])
                yield f"INSERT IGNORE INTO {table} ({names}) VALUES ({', '.join(values)})"
            elif kind < 0.9:
                column, value = self._rng.choice(columns), self._rng.choice(VALUES)
                yield f"UPDATE IGNORE {table} SET {column} = {value} WHERE id = '{handle}'"
            else:
                yield f"DELETE FROM {table} WHERE id = '{handle}'"

    def _add(self, table: str) -> Iterator[str]:
        columns = self._columns[table]
        if len(columns) >= _MOST_COLUMNS:
            return
        column = self._new("c")
        null = self._rng.choice(("", "", "NOT NULL"))
        default = f"DEFAULT {self._rng.choice(VALUES)}" if self._rng.random() < 0.4 else ""
        text = (
            f"ALTER TABLE {table} ADD COLUMN {column} {self._rng.choice(TYPES)} "
            f"{null} {default} {self._rng.choice(('', 'FIRST'))}"
        )
        yield self._then(text, lambda: columns.append(column))

    def _modify(self, table: str) -> Iterator[str]:
        columns = self._columns[table]
        if not columns:
            return
        column = self._rng.choice(columns)
        null = self._rng.choice(("", "", "", "NOT NULL"))
        wanted = f"{self._rng.choice(TYPES)} {null}"
        if self._rng.random() < 0.8:
            yield f"ALTER TABLE {table} MODIFY COLUMN {column} {wanted}"
            return
        renamed = self._new("c")
        text = f"ALTER TABLE {table} CHANGE COLUMN {column} {renamed} {wanted}"

        def rename() -> None:
            columns[columns.index(column)] = renamed

        yield self._then(text, rename)

    def _drop(self, table: str) -> Iterator[str]:
        columns = self._columns[table]
        if columns:
            column = self._rng.choice(columns)
            text = f"ALTER TABLE {table} DROP COLUMN {column}"
            yield self._then(text, lambda: columns.remove(column))

    def _session(self, _: str) -> Iterator[str]:
        yield f"SET time_zone = '{self._rng.choice(ZONES)}'"
        yield f"SET sql_mode = {self._rng.choice(MODES)}"

    def _whole(self, table: str) -> Iterator[str]:
        columns, kind = self._columns, self._rng.random()
        if kind < 0.4:
            yield f"TRUNCATE TABLE {table}"
        elif kind < 0.7:
            name = self._new("t")
            text = f"RENAME TABLE {table} TO {name}"
            yield self._then(text, lambda: columns.update({name: columns.pop(table)}))
        elif len(columns) > 2:
            yield self._then(f"DROP TABLE {table}", lambda: columns.pop(table))

    def _pair(self) -> Iterator[str]:
        if not self._pairs or self._rng.random() < 0.1:
            name, column = self._new(""), self._new("c")
            columns = f"(id INT, {column} {self._rng.choice(TYPES)})"
            yield f"CREATE TABLE x{name} {columns}"
            text = (
                f"CREATE TABLE y{name} {columns} PARTITION BY RANGE (id)"
                " (PARTITION p0 VALUES LESS THAN (20), PARTITION p1 VALUES LESS THAN (1000))"
            )
            yield self._then(text, lambda: self._pairs.update({name: [column]}))
            return
        name = self._rng.choice(sorted(self._pairs))
        columns = self._pairs[name]
        kinds = (self._pair_writes, self._pair_adds, self._pair_modifies)
        if self._rng.random() < 0.3:
            yield f"ALTER TABLE y{name} EXCHANGE PARTITION p0 WITH TABLE x{name}"
        else:
            (kind,) = self._rng.choices(kinds, (4, 2, 2))
            yield from kind(name, columns)

    def _pair_writes(self, name: str, columns: list[str]) -> Iterator[str]:
        for _ in range(self._rng.randint(1, 6)):
            table, column = self._rng.choice("xy") + name, self._rng.choice(columns)
            handle, value = self._rng.randrange(20), self._rng.choice(VALUES)
            if self._rng.random() < 0.7:
                yield f"INSERT IGNORE INTO {table} (id, {column}) VALUES ({handle}, {value})"
            else:
                yield f"UPDATE IGNORE {table} SET {column} = {value} WHERE id = {handle}"

    def _pair_adds(self, name: str, columns: list[str]) -> Iterator[str]:
        column = self._new("c")
        definition = f"{column} {self._rng.choice(TYPES)}"
        defaults = [self._rng.choice(("", f"DEFAULT {self._rng.choice(VALUES)}")) for _ in "xy"]
        yield f"ALTER TABLE x{name} ADD COLUMN {definition} {defaults[0]}"
        text = f"ALTER TABLE y{name} ADD COLUMN {definition} {defaults[1]}"
        yield self._then(text, lambda: columns.append(column))

    def _pair_modifies(self, name: str, columns: list[str]) -> Iterator[str]:
        """If it reorganises, the new column has the id of one added to the other table."""
        at = self._rng.randrange(len(columns))
        definition = f"{columns[at]} {self._rng.choice(TYPES)}"
        default = self._rng.choice(("", f"DEFAULT {self._rng.choice(VALUES)}"))
        yield f"ALTER TABLE x{name} MODIFY COLUMN {definition}"
        yield f"ALTER TABLE y{name} DROP COLUMN {columns[at]}"
        yield f"ALTER TABLE y{name} ADD COLUMN {definition} {default} AFTER {['id', *columns][at]}"

    def _then(self, statement: str, after: Callable[[], object]) -> str:
        self._after[statement] = lambda: (after(), None)[1]
        return statement

    def _new(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"
