"""States of tables that garbage collection has taken from TiKV, as far as they can be told.

The end of a DDL job is kept for good, in the job. A state in the middle of one is not; what was
written then has the columns from before, and may have those from after:

    state      public    (lost)                 public
    columns    a, b      a, b and maybe c       a, c
    bridged              a, b*, c*              * not public: rows may lack it

REORGANIZE PARTITION copies rows in its middle states. The partitions before and after show which
ones were copied to which. How far it was in a lost state is not known; such a state is marked with
`STATE_LOST`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.tidb.schema.diff import Action, Place, SchemaDiff
from pyspark_theflash.tidb.schema.history import TableEvent
from pyspark_theflash.tidb.schema.meta_key import FinishedJob, MetaReader
from pyspark_theflash.tidb.schema.model import (
    STATE_LOST,
    STATE_WRITE_ONLY,
    TableInfo,
    parse_table_info,
)


@dataclass(frozen=True, slots=True)
class LostState:
    """A state of a table that is known only to have begun at `ts`, by a DDL of kind `action`."""

    ts: TimeStamp
    db: str
    table_id: TableID
    action: int


class FinishedJobs:
    """The DDL jobs above a schema version, fetched when they are first asked for."""

    def __init__(self, reader: MetaReader, above: SchemaVersion) -> None:
        self._reader, self._above = reader, above
        self._jobs: dict[SchemaVersion, FinishedJob] | None = None

    def at(self, version: SchemaVersion) -> FinishedJob | None:
        """The job that ended with this version; None where the version was no end."""
        return self._by_version().get(version)

    def database_name(self, database_id: int) -> str | None:
        """What one of the jobs calls a database."""
        jobs = self._by_version().values()
        return next((j.database for j in jobs if j.database_id == database_id), None)

    def _by_version(self) -> dict[SchemaVersion, FinishedJob]:
        if self._jobs is None:
            found = self._reader.finished_jobs(self._above)
            self._jobs = {job.version: job for job in found}
        return self._jobs


def job_result(
    job: FinishedJob, diff: SchemaDiff, place: Place, database: str
) -> TableEvent | None:
    """What was at a place when a job had ended; None if the job does not say.

    Raises:
        SchemaFileError: it holds something else than a TableInfo.
    """
    _, table_id = place
    if place not in diff.places:
        return TableEvent(diff.commit_ts, database, table_id, None)
    if table_id not in job.tables:
        return None
    table = parse_table_info(database, job.tables[table_id])
    return TableEvent(diff.commit_ts, database, table_id, table)


def bridged(events: Sequence[TableEvent], gaps: Sequence[LostState]) -> list[TableEvent]:
    """Return for each lost state an event with a table of what rows may hold then."""
    found: list[TableEvent] = []
    for gap in gaps:
        states = [e for e in [*events, *found] if e.table_id == gap.table_id]
        states.sort(key=lambda e: e.ts)
        before = next((e.table for e in reversed(states) if e.ts < gap.ts), None)
        after = next((e.table for e in states if e.ts > gap.ts), None)
        if before is not None and after is not None:
            table = _bridge(before, after, gap.action)
            found.append(TableEvent(gap.ts, gap.db, gap.table_id, table))
    return found


def _bridge(before: TableInfo, after: TableInfo, action: int) -> TableInfo:
    """`before` with the columns of `after` too, those that come or go not public.

    A column of the same name and another id is the one that MODIFY COLUMN made of it: one job
    cannot both drop and add a name.
    """
    info, later = json.loads(before.json_text), json.loads(after.json_text)
    columns, known = info["cols"], {column["id"] for column in info["cols"]}
    ids, names = ({c["id"] for c in later["cols"]}, {c["name"]["L"] for c in later["cols"]})
    offsets = {column["name"]["L"]: column["offset"] for column in columns}
    for column in columns:
        if column["id"] not in ids and column["name"]["L"] not in names:
            column["state"] = STATE_WRITE_ONLY
    for column in later["cols"]:
        if column["id"] not in known:
            added = column | {"state": STATE_WRITE_ONLY, "offset": len(columns)}
            if (source := offsets.get(column["name"]["L"])) is not None:
                added["change_state_info"] = {"relative_col_offset": source}
            columns.append(added)
    if action == Action.REORGANIZE_PARTITION and info.get("partition") and later.get("partition"):
        info["partition"] |= _reorganized(info["partition"], later["partition"])
    return parse_table_info(before.db, info)


def _reorganized(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What a lost state's partitions have that those of `before` lack."""
    kinds = ("adding_definitions", "dropping_definitions")
    known = next((p for p in (before, after) if all(p.get(kind) for kind in kinds)), None)
    if known is not None:
        changing = {kind: known[kind] for kind in kinds}
    else:
        old, new = before["definitions"], after["definitions"]
        changing = dict(zip(kinds, (_without(new, old), _without(old, new)), strict=True))
    return changing | {"ddl_state": STATE_LOST}


def _without(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = {definition["id"] for definition in others}
    return [definition for definition in some if definition["id"] not in ids]
