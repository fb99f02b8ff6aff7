"""Every TableInfo a cluster has had, by timestamp.

A row is decoded by the TableInfo it was *written* under and read with the one valid at the *scan's*
timestamp (promise P8), so a replica keeps them all. An event is a change of one meta key: its `ts`
is that change's commit timestamp, and `table` is None where the table was dropped.

Schema versions
    A binlog names the schema version its rows were encoded under. TiDB raises the version and
    writes the TableInfo in one transaction step after the other, so version V's TableInfo is
    committed a little *after* V itself:

        ts      100        102          200        202
                version 7  table a      version 8  table a'
                           └── what version 7 means ──┘

    Version V therefore means "the newest event below the moment of version V + 1".
"""

import bisect
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pyspark_theflash.errors import SchemaConflictError, SchemaOutdatedError, TableNotFoundError
from pyspark_theflash.schema.model import TableInfo, parse_table_info
from pyspark_theflash.types import MAX_TS, SchemaVersion, TableID, TimeStamp


@dataclass(frozen=True, slots=True)
class TableEvent:
    """A table's definition from `ts` on; `table` is None where `table_id` left database `db`."""

    ts: TimeStamp
    db: str
    table_id: TableID
    table: TableInfo | None

    def to_json(self) -> bytes:
        """The event as the store keeps it."""
        info = json.loads(self.table.json_text) if self.table else None
        body = {"ts": self.ts, "db": self.db, "table_id": self.table_id, "table": info}
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, body: bytes) -> "TableEvent":
        """Inverse of `to_json`."""
        event = json.loads(body)
        table = parse_table_info(event["db"], event["table"]) if event["table"] else None
        return cls(TimeStamp(event["ts"]), event["db"], TableID(event["table_id"]), table)


@dataclass(frozen=True, slots=True)
class SchemaVersionAt:
    """The cluster's schema version from `ts` on."""

    ts: TimeStamp
    version: SchemaVersion


class SchemaHistory:
    """All table definitions between `start_ts` and `end_ts`, both included. Immutable.

    Invariant: events are in the order of their timestamps, drops before definitions at the same one
    (a table that moves to another database leaves one and enters the other); those at `start_ts`
    are the tables that existed then.
    """

    def __init__(
        self,
        start_ts: TimeStamp,
        end_ts: TimeStamp,
        events: Iterable[TableEvent],
        versions: Iterable[SchemaVersionAt],
    ) -> None:
        self.start_ts: Final = start_ts
        self.end_ts: Final = end_ts
        self.events: Final = tuple(sorted(events, key=lambda e: (e.ts, e.table is not None)))
        self.versions: Final = tuple(sorted(versions, key=lambda v: v.version))
        self._by_id: dict[TableID, list[TableEvent]] = defaultdict(list)
        for event in self.events:
            self._by_id[event.table_id].append(event)

    def tables_at(self, ts: TimeStamp) -> Sequence[TableInfo]:
        """The tables that exist at `ts`, by full name."""
        found = (self._table_in_force(table_id, ts) for table_id in self._by_id)
        return sorted((t for t in found if t is not None), key=lambda t: t.full_name)

    def table_by_name(self, full_name: str, ts: TimeStamp) -> TableInfo:
        """The table called `db.table` at `ts`; names are compared without case, as TiDB does.

        Raises:
            TableNotFoundError: none is called so then.
        """
        wanted = full_name.lower()
        for table in self.tables_at(ts):
            if table.full_name.lower() == wanted:
                return table
        raise TableNotFoundError(full_name, ts)

    def table_by_version(self, table_id: TableID, version: SchemaVersion) -> TableInfo:
        """What `table_id` was under schema `version`; a table dropped since is still found.

        Raises:
            SchemaOutdatedError: this history knows no such version or no such table.
        """
        newest = self.versions[-1] if self.versions else None
        if newest is not None and version > newest.version:
            raise SchemaOutdatedError(f"schema version {version}", newest.ts)
        table = self._table_in_force(table_id, TimeStamp(self._end_of_version(version) - 1))
        if table is None:
            raise SchemaOutdatedError(f"table with id {table_id}", self._end_of_version(version))
        return table

    def extend(self, other: "SchemaHistory") -> "SchemaHistory":
        """This history continued by `other`, which must tell the same about the time both cover.

        Raises:
            SchemaConflictError: it tells something else.
        """
        if other.start_ts != self.start_ts:
            raise SchemaConflictError(f"start_ts {other.start_ts}", self.start_ts)
        until = min(self.end_ts, other.end_ts)
        for ours, theirs in zip(self.until(until), other.until(until), strict=False):
            if ours != theirs:
                raise SchemaConflictError(f"table {theirs.table_id}", theirs.ts)
        if len(self.until(until)) != len(other.until(until)):
            raise SchemaConflictError("the number of schema changes", until)
        return other if other.end_ts > self.end_ts else self

    def until(self, ts: TimeStamp) -> Sequence[TableEvent]:
        """The events at or below `ts`."""
        return self.events[: bisect.bisect_right(self.events, ts, key=lambda e: e.ts)]

    def _end_of_version(self, version: SchemaVersion) -> TimeStamp:
        after = bisect.bisect_right(self.versions, version, key=lambda v: v.version)
        return self.versions[after].ts if after < len(self.versions) else MAX_TS

    def _table_in_force(self, table_id: TableID, ts: TimeStamp) -> TableInfo | None:
        events = self._by_id.get(table_id, [])
        at = bisect.bisect_right(events, ts, key=lambda e: e.ts)
        return events[at - 1].table if at else None
