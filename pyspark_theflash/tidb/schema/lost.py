"""Reconstruction of table states that TiKV has garbage collected.

The result of a DDL job is retained permanently in the job record; an intermediate state is not.
Rows written in a lost state have the columns from before, and may have those from after:

    state      public    (lost)                 public
    columns    a, b      a, b and maybe c       a, c
    bridged              a, b*, c*              * not public: rows may omit it

REORGANIZE PARTITION copies rows in its intermediate states. Which partitions were copied to which
follows from the states before and after. The progress in a lost state is unknown; such a state is
marked `STATE_LOST`.
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
    """Table state of unknown content that a DDL job of type `action` wrote at `ts`."""

    ts: TimeStamp
    db: str
    table_id: TableID
    action: int


class FinishedJobs:
    """Finished DDL jobs above a schema version, fetched on first use."""

    def __init__(self, reader: MetaReader, above: SchemaVersion) -> None:
        self._reader, self._above = reader, above
        self._jobs: dict[SchemaVersion, FinishedJob] | None = None

    def at(self, version: SchemaVersion) -> FinishedJob | None:
        """Return the job that ended with this version, or None if no job did."""
        return self._by_version().get(version)

    def database_name(self, database_id: int) -> str | None:
        """Return the name of a database, if one of the jobs has it."""
        jobs = self._by_version().values()
        return next((j.database for j in jobs if j.database_id == database_id), None)

    def _by_version(self) -> dict[SchemaVersion, FinishedJob]:
        if self._jobs is None:
            jobs = self._reader.finished_jobs(self._above)
            self._jobs = {job.version: job for job in jobs}
        return self._jobs


def job_result(
    job: FinishedJob, diff: SchemaDiff, place: Place, database: str
) -> TableEvent | None:
    """Return the event at a place from the finished job, or None if the job does not show it.

    Raises:
        SchemaFileError: The job's table is not a TableInfo.
    """
    _, table_id = place
    if place not in diff.places:
        return TableEvent(diff.commit_ts, database, table_id, None)
    if table_id not in job.tables:
        return None
    table = parse_table_info(database, job.tables[table_id])
    return TableEvent(diff.commit_ts, database, table_id, table)


def bridged(events: Sequence[TableEvent], gaps: Sequence[LostState]) -> list[TableEvent]:
    """Return an event for each lost state, with all columns that its rows may have."""
    result: list[TableEvent] = []
    for gap in gaps:
        states = [e for e in [*events, *result] if e.table_id == gap.table_id]
        states.sort(key=lambda e: e.ts)
        before = next((e.table for e in reversed(states) if e.ts < gap.ts), None)
        after = next((e.table for e in states if e.ts > gap.ts), None)
        if before is not None and after is not None:
            table = _bridge(before, after, gap.action)
            result.append(TableEvent(gap.ts, gap.db, gap.table_id, table))
    return result


def _bridge(before: TableInfo, after: TableInfo, action: int) -> TableInfo:
    """Return `before` plus the columns of `after`; those not in both are not public.

    A column with the same name and another id was created from the old one by MODIFY COLUMN: a
    single job cannot both drop and add a name.
    """
    info, later = json.loads(before.json_text), json.loads(after.json_text)
    columns, column_ids = info["cols"], {column["id"] for column in info["cols"]}
    ids, names = ({c["id"] for c in later["cols"]}, {c["name"]["L"] for c in later["cols"]})
    offsets = {column["name"]["L"]: column["offset"] for column in columns}
    for column in columns:
        if column["id"] not in ids and column["name"]["L"] not in names:
            column["state"] = STATE_WRITE_ONLY
    for column in later["cols"]:
        if column["id"] not in column_ids:
            added = column | {"state": STATE_WRITE_ONLY, "offset": len(columns)}
            if (source := offsets.get(column["name"]["L"])) is not None:
                added["change_state_info"] = {"relative_col_offset": source}
            columns.append(added)
    if action == Action.REORGANIZE_PARTITION and info.get("partition") and later.get("partition"):
        info["partition"] |= _reorganized(info["partition"], later["partition"])
    return parse_table_info(before.db, info)


def _reorganized(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the partition fields of a lost state that `before` does not have."""
    kinds = ("adding_definitions", "dropping_definitions")
    complete = next((p for p in (before, after) if all(p.get(kind) for kind in kinds)), None)
    if complete is not None:
        changing = {kind: complete[kind] for kind in kinds}
    else:
        old, new = before["definitions"], after["definitions"]
        changing = dict(zip(kinds, (_without(new, old), _without(old, new)), strict=True))
    return changing | {"ddl_state": STATE_LOST}


def _without(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = {definition["id"] for definition in others}
    return [definition for definition in some if definition["id"] not in ids]
