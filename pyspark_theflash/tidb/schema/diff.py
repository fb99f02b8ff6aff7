"""SchemaDiff: the record of the tables that a schema version changed.

TiDB writes it in the transaction that changes the tables, so its commit_ts is that of the change:

    version V raised (commit c1)  <  Diff:V, DB:x/Table:y, DDL binlog, all in one commit c2

A version without a SchemaDiff belongs to a transaction that is not committed yet, or that failed.
As in TiDB's `parser/model/ddl.go` and `updateSchemaVersion` in `ddl/ddl_worker.go`.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.tidb.codec.document import load
from pyspark_theflash.tidb.schema.meta_key import MetaWrite


class Action(IntEnum):
    """DDL job types that are handled specially; values as in TiDB's `ActionType`."""

    CREATE_DATABASE = 1
    DROP_DATABASE = 2
    DROP_TABLE = 4
    MODIFY_COLUMN = 12
    DROP_VIEW = 24
    RECOVER_TABLE = 25
    DROP_SEQUENCE = 36
    MULTI = 61
    RECOVER_DATABASE = 63
    REORGANIZE_PARTITION = 64


_DROPS: Final = (Action.DROP_TABLE, Action.DROP_VIEW, Action.DROP_SEQUENCE)
_RESTORES: Final = (Action.RECOVER_TABLE, Action.RECOVER_DATABASE)
Place: TypeAlias = tuple[int, TableID]
"""Location of a table: (database id, table id)."""


@dataclass(frozen=True, slots=True)
class SchemaDiff:
    """Tables changed by one schema version, in the transaction `start_ts` .. `commit_ts`.

    `places` are the changed tables. `removed` are the places that have no table afterwards: those
    of dropped tables, of truncated ones (which continue under another id) and of tables moved to
    another database. The tables of a dropped database are not listed. With `rebuilds_all`, any
    table may have changed.
    """

    version: SchemaVersion
    action: int
    database_id: int
    places: frozenset[Place]
    removed: frozenset[Place]
    rebuilds_all: bool
    start_ts: TimeStamp
    commit_ts: TimeStamp

    @property
    def restores(self) -> bool:
        """Whether it is RECOVER or FLASHBACK of a table or database, with its rows."""
        return self.action in _RESTORES


def parse_diff(version: SchemaVersion, write: MetaWrite) -> SchemaDiff:
    """Parse the diff of a version; raises one of `SHAPE_ERRORS` if it is not a SchemaDiff."""
    diff = load(write.value or b"")
    action = int(diff["type"])
    places: set[Place] = set()
    removed: set[Place] = set()
    for change in (diff, *(diff.get("affected_options") or ())):
        database_id, table_id = int(change.get("schema_id") or 0), int(change.get("table_id") or 0)
        old_database_id = int(change.get("old_schema_id") or 0) or database_id
        old_table_id = int(change.get("old_table_id") or 0) or table_id
        place = database_id, TableID(table_id)
        old_place = old_database_id, TableID(old_table_id)
        (removed if action in _DROPS else places).add(place)
        if old_place != place:
            removed.add(old_place)
    return SchemaDiff(
        version,
        action,
        int(diff["schema_id"]),
        _with_key(places),
        _with_key(removed),
        bool(diff.get("regenerate_schema_map")),
        write.start_ts,
        write.commit_ts,
    )


def _with_key(places: set[Place]) -> frozenset[Place]:
    """Return the places of tables: without partitions (database id 0) and empty entries."""
    return frozenset(place for place in places if min(place) > 0)
