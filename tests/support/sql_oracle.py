"""SQLite as the oracle of statements: both execute the same text and have the same rows then."""

import sqlite3
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

from pyspark_theflash.base.errors import DuplicateKeyError, TheFlashError
from pyspark_theflash.service.client.statement import Executed, execute_sql
from pyspark_theflash.service.client.theflash import TheFlash
from pyspark_theflash.service.wire.message import Moment

DB: Final = "shop"
Rows = list[tuple[Any, ...]]


class SqlMirror:
    """A store and a SQLite database, to which each statement is given."""

    def __init__(self, store: TheFlash) -> None:
        self._store, self._sqlite = store, sqlite3.connect(":memory:", isolation_level=None)
        self._sqlite.execute(f"ATTACH ':memory:' AS {DB}")
        self.snapshots: list[tuple[int, dict[str, Rows]]] = []

    def execute(self, text: str, parameters: Sequence[object] = ()) -> Executed:
        """Execute a statement in both; an error must leave the store as it was.

        SQLite must agree on the number of rows, all rows, and on errors of keys and NULLs. Other
        errors are not SQLite's, for example a text that is too long.
        """
        try:
            done = execute_sql(self._store, text, parameters)
        except TheFlashError as error:
            is_constraint = isinstance(error, DuplicateKeyError) or "NOT NULL" in str(error)
            if is_constraint:
                try:
                    self._sqlite.execute(text, list(parameters))
                except sqlite3.IntegrityError:
                    pass
                else:
                    raise AssertionError(f"SQLite accepts {text}") from error
            self.check()
            raise
        changed = self._sqlite.execute(text, list(parameters)).rowcount
        assert done.rows == max(changed, 0), text
        if done.commit_ts is not None:
            assert not self.snapshots or done.commit_ts > self.snapshots[-1][0]
            self.snapshots.append((done.commit_ts, self._expected()))
        self.check()
        return done

    def check(self) -> None:
        """Compare the newest rows."""
        if self.snapshots:
            assert self.snapshots[-1][1] == self._expected()
            self._check_at(*self.snapshots[-1])

    def check_history(self) -> None:
        """Compare the rows at the timestamp of every statement, and just before it."""
        before: dict[str, Rows] = {}
        for ts, rows in self.snapshots:
            self._check_at(ts, rows)
            if ts != self.snapshots[0][0]:
                self._check_at(ts - 1, before)
            before = rows

    def rows(self, table: str) -> Rows:
        """Return SQLite's rows of a table."""
        return self._expected()[table]

    def close(self) -> None:
        """Close SQLite and the store."""
        self._sqlite.close()
        self._store.close()

    def _check_at(self, ts: int, rows: dict[str, Rows]) -> None:
        assert {t.name for t in self._store.tables(ts).tables} == rows.keys()
        for table, expected in rows.items():
            assert stored_rows(self._store, table, ts) == expected, (table, ts)

    def _expected(self) -> dict[str, Rows]:
        names = self._sqlite.execute(f"SELECT name FROM {DB}.sqlite_master WHERE type = 'table'")
        return {
            f"{DB}.{name}": _sorted(self._sqlite.execute(f"SELECT * FROM {DB}.{name}"))
            for (name,) in names.fetchall()
        }


def stored_rows(store: TheFlash, table: str, ts: int) -> Rows:
    """Return the rows of a table at a timestamp, sorted, with the values that SQLite has."""
    plan = store.plan(table, moment=Moment(ts))
    cells = [tuple(map(_value, row.values())) for b in store.read(plan) for row in b.to_pylist()]
    store.release(plan.snapshot)
    return _sorted(cells)


def _value(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else value


def _sorted(rows: Any) -> Rows:
    return sorted(rows, key=lambda row: [(v is None, str(v)) for v in row])
