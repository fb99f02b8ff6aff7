"""Which tables a store replicates: `--include` and `--exclude`.

A pattern is `db.table` with `*` and `?`, compared without case. A table is in if an include pattern
fits (or there is none) and no exclude pattern does. The first name that a table had decides, for
good: one that is renamed later must not lose the rows from before.
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
    """The patterns of a store."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def contains(self, full_name: str) -> bool:
        """Whether a table that begins its life as `db.table` is replicated."""
        name = full_name.lower()
        wanted = not self.include or any(fits(name, p) for p in self.include)
        return wanted and not any(fits(name, p) for p in self.exclude)

    def to_record(self) -> Record:
        return Record(SCOPE_KIND, "scope", json.dumps(asdict(self)).encode())

    @classmethod
    def of(cls, view: View) -> "TableScope | None":
        """None before the first publication. Raises `CodecError`."""
        body = view.of_kind(SCOPE_KIND).get("scope")
        if body is None:
            return None
        with shaped(f"{SCOPE_KIND} record"):
            patterns = load(body)
            return cls(texts(patterns["include"]), texts(patterns["exclude"]))


def continued(stored: TableScope | None, given: TableScope | None) -> TableScope:
    """The scope of a run: the store's, once it has one.

    Raises:
        OptionError: the run asks for another one; rows from before would be missing.
    """
    if stored is None:
        return given or TableScope()
    if given is not None and given != stored:
        kept = f"--include {list(stored.include)} --exclude {list(stored.exclude)}"
        raise OptionError("include", f"this store was begun with {kept}, which cannot change")
    return stored


class ScopedTables:
    """Table ids in a scope, as a history knows them."""

    def __init__(self, scope: TableScope, history: SchemaHistory) -> None:
        self._scope, self._history = scope, history
        self._known: dict[TableID, bool] = {}

    def contains(self, table_id: TableID) -> bool:
        """Whether the table's changes are replicated."""
        if self._scope == TableScope():
            return True
        if table_id not in self._known:
            self._known[table_id] = self._scope.contains(self._history.first_name(table_id))
        return self._known[table_id]


def fits(name: str, pattern: str) -> bool:
    """Whether a name in lower case is one that a pattern means."""
    # A bracket is one: sets of characters are not promised, and many `[` take very long to read.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))
