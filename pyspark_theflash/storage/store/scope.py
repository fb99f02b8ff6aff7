"""The scope of a store, the tables that it replicates: `--include` and `--exclude`.

A pattern is `db.table` with `*` and `?`, case-insensitive. A table is in the scope if an include
pattern matches (or there is none) and no exclude pattern does. Patterns are matched against the
first name of a table only, so that renaming it does not lose its earlier rows.
"""

import fnmatch
import json
from dataclasses import asdict, dataclass
from typing import Final

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.types import TableID
from pyspark_theflash.storage.store.manifest import Record, View
from pyspark_theflash.tidb.codec.document import load, shaped, texts
from pyspark_theflash.tidb.schema.history import SchemaHistory

SCOPE_KIND: Final = "scope"


@dataclass(frozen=True, slots=True)
class TableScope:
    """The include and exclude patterns of a store."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def contains(self, full_name: str) -> bool:
        """Return whether a table whose first name is `full_name` (`db.table`) is replicated."""
        name = full_name.lower()
        is_included = not self.include or any(fits(name, p) for p in self.include)
        return is_included and not any(fits(name, p) for p in self.exclude)

    def to_record(self) -> Record:
        return Record(SCOPE_KIND, "scope", json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "TableScope | None":
        """Decode the scope in a view; None before the first publication. Raises `CodecError`."""
        body = view.of_kind(SCOPE_KIND).get("scope")
        if body is None:
            return None
        with shaped(f"{SCOPE_KIND} record"):
            patterns = load(body)
            return cls(texts(patterns["include"]), texts(patterns["exclude"]))


def continued(stored: TableScope | None, requested: TableScope | None) -> TableScope:
    """Return the scope of a writer's run: the stored one, or the requested one if there is none.

    Raises:
        OptionError: The scopes differ; earlier rows would be missing.
    """
    if stored is None:
        return requested or TableScope()
    if requested is not None and requested != stored:
        scope = f"--include {list(stored.include)} --exclude {list(stored.exclude)}"
        raise OptionError("include", f"this store was begun with {scope}, which cannot change")
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
            self._cached[table_id] = self._scope.contains(self._history.first_name(table_id))
        return self._cached[table_id]


def fits(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a name in lower case."""
    # Brackets are literal: character sets are not supported, and many `[` are slow to match.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))
