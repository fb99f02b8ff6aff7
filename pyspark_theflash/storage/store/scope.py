"""The scope of a store, the tables that it replicates: `--include` and `--exclude`.

A pattern is `db.table` with `*` and `?`, case-insensitive. A table is in the scope if an include
pattern matches (or there is none) and no exclude pattern does. Patterns are matched against the
first name of a table only, so that renaming it does not lose its earlier rows.

A writer of TiKV's change feed can extend the scope of a store: by a pattern, from a timestamp on,
for tables that are created after it, and by single tables that it has loaded (`entered.py`).
"""

import fnmatch
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.types import MAX_TS, TableID, TimeStamp
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import int64, load, shaped, text, texts, uint64
from pyspark_theflash.tidb.schema.history import SYSTEM_DATABASES, SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo

SCOPE_KIND: Final = "scope"
_ALWAYS: Final = ("include", "exclude")


@dataclass(frozen=True, slots=True)
class TableScope:
    """The include and exclude patterns of a store, and what was added to it."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    added: tuple[tuple[str, TimeStamp], ...] = ()
    """Include patterns for tables that are created after a timestamp."""
    tables: tuple[TableID, ...] = ()
    """Tables that are replicated regardless of their first names."""

    def contains(self, full_name: str, ts: TimeStamp | None = None) -> bool:
        """Return whether a table whose first name is `full_name` (`db.table`) is replicated.

        `ts` is when it was created, or None if it existed when the store began.
        """
        name = full_name.lower()
        patterns = [*self.include, *(p for p, since in self.added if ts is not None and since < ts)]
        is_included = not self.include or any(fits(name, p) for p in patterns)
        return is_included and not any(fits(name, p) for p in self.exclude)

    def plus(
        self, patterns: Iterable[str], ts: TimeStamp, table_ids: Iterable[TableID]
    ) -> "TableScope":
        """Return this scope with patterns for tables created after `ts`, and with tables."""
        new = ((pattern, ts) for pattern in patterns if not self.has(pattern))
        tables = sorted({*self.tables, *table_ids})
        return replace(self, added=(*self.added, *new), tables=tuple(tables))

    def has(self, pattern: str) -> bool:
        """Return whether the tables that a pattern matches need not be added.

        Of the patterns with wildcards, only those of the scope itself are recognized.
        """
        if not self.include or pattern in (*self.include, *(p for p, _ in self.added)):
            return True
        return not {"*", "?"} & set(pattern) and self.contains(pattern, MAX_TS)

    def to_record(self) -> Record:
        fields = {name: value for name, value in asdict(self).items() if value or name in _ALWAYS}
        return Record(SCOPE_KIND, "scope", json.dumps(fields).encode())

    @classmethod
    def of(cls, view: View) -> "TableScope | None":
        """Decode the scope in a view; None before the first publication. Raises `CodecError`."""
        body = view.of_kind(SCOPE_KIND).get("scope")
        if body is None:
            return None
        with shaped(f"{SCOPE_KIND} record"):
            fields = load(body)
            return cls(
                texts(fields["include"]),
                texts(fields["exclude"]),
                tuple((text(p), TimeStamp(uint64(ts))) for p, ts in fields.get("added", ())),
                tuple(TableID(int64(table_id)) for table_id in fields.get("tables", ())),
            )


def continued(stored: TableScope | None, requested: TableScope | None) -> TableScope:
    """Return the scope of a writer's run: the stored one, or the requested one if there is none.

    The request may or may not have the added patterns.

    Raises:
        OptionError: The scopes differ; earlier rows would be missing.
    """
    if stored is None:
        return requested or TableScope()
    begun = TableScope(stored.include, stored.exclude)
    added = tuple(pattern for pattern, _ in stored.added)
    if requested not in (None, begun, replace(begun, include=(*begun.include, *added))):
        scope = f"--include {list(stored.include)} --exclude {list(stored.exclude)}"
        reason = f"this store was begun with {scope}, which cannot change"
        raise OptionError("include", f"{reason}; theflash follow --add adds tables")
    return stored


class ScopedTables:
    """Scope lookup by table id, with the names in a history."""

    def __init__(self, scope: TableScope, history: SchemaHistory) -> None:
        self._scope, self._history = scope, history
        self._cached: dict[TableID, bool] = {}

    def contains(self, table_id: TableID) -> bool:
        """Return whether the table's changes are replicated."""
        if self._scope == TableScope():
            return True
        if table_id not in self._cached:
            name, first = self._history.first_name(table_id), self._history.first_event(table_id)
            is_matched = self._scope.contains(name, None if first is None else first.ts)
            self._cached[table_id] = is_matched or table_id in self._scope.tables
        return self._cached[table_id]


def fits(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a name in lower case."""
    if len(pattern) - pattern.count("*") > len(name):  # Long patterns are slow to compile.
        return False
    # Brackets are literal: character sets are not supported, and many `[` are slow to match.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))


def tables_to_load(history: SchemaHistory, scope: TableScope) -> list[TableInfo]:
    """Return the tables with rows in the scope, as they were at the start of a history."""
    events = (history.first_event(table_id) for table_id in history.table_ids)
    tables = [
        event.table
        for event in events
        if event is not None
        and event.ts == history.start_ts
        and event.db not in SYSTEM_DATABASES
        and scope.contains(event.full_name)
        and event.table is not None
    ]
    return [table for table in tables if table.holds_rows]
