"""Decoding of changes, of which an error may concern only the contents of one table."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.base.errors import UnknownCopyError, UnknownPartitionError, UnsupportedError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.changes import TableChanges
from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.tidb.schema.model import TableInfo

TABLE_ERRORS: Final = UnknownPartitionError, UnknownCopyError, UnsupportedError
"""Errors after which only the contents of one table are unknown."""


@dataclass(frozen=True, slots=True)
class DecodeFailure:
    """Why the rows of a table are not known from a commit on."""

    table: str
    physical_ids: Set[PhysicalTableID]
    ts: TimeStamp
    reason: str


def decode_changes(changes: TableChanges) -> tuple[list[VersionBatch], DecodeFailure | None]:
    """Decode changes; on an error of the table return the versions before it, and the failure."""
    try:
        return changes.to_versions(), None
    except TABLE_ERRORS as error:
        ts, table = changes.first_ts, changes.table
        if isinstance(error, UnknownPartitionError):
            ts = TimeStamp(error.commit_ts)
        ids = possible_ids(table, changes.placement or table)
        failure = DecodeFailure(table.full_name, ids, ts, str(error))
        return changes.below(ts).to_versions() if ts > changes.first_ts else [], failure


def possible_ids(*tables: TableInfo) -> Set[PhysicalTableID]:
    """Return the physical tables that rows written under any of the definitions may be in."""
    return frozenset(physical_id for table in tables for physical_id in table.stored_ids)
