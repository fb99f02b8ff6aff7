"""The meta keys of a cluster that runs DDL step by step, as a model, for tests of schema sources.

Each step does what TiDB's DDL owner does: one transaction raises the schema version, a second one
writes the tables and the SchemaDiff. Timestamps grow by ten with each of them. `collect` is
TiKV's garbage collection.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.meta_key import (
    SCHEMA_VERSION_KEY,
    FinishedJob,
    ListedDatabase,
    ListedTable,
    MetaKey,
    MetaWrite,
    database_key,
    diff_key,
    table_key,
)
from pyspark_theflash.tidb.schema.model import STATE_PUBLIC

Info = Mapping[str, Any]
Change = tuple[int, int, Info | None]
"""A table's database and id, and its TableInfo, None to delete it."""

CREATE_DATABASE, DROP_DATABASE, CREATE_TABLE, DROP_TABLE, ADD_COLUMN = 1, 2, 3, 4, 5
TRUNCATE, MODIFY_COLUMN, RENAME, EXCHANGE, RECOVER_DATABASE = 11, 12, 14, 42, 63
TRUNCATE_PARTITION, REORGANIZE = 23, 64


def info(table_id: int, name: str, *columns: str, **properties: Any) -> dict[str, Any]:
    """Return a TableInfo of integer columns, whose ids are the positions of their first letters.

    `b!` is a column in state write-only, `c-b` one called `b` with the id of `c`.
    """
    parts = [column(c.rstrip("!").rpartition("-")[2], MySQLType.LONG) for c in columns]
    table: dict[str, Any] = json.loads(table_info(table_id, f"db.{name}", parts).json_text)
    for offset, (text, each) in enumerate(zip(columns, table["cols"], strict=True)):
        each["id"], each["offset"] = ord(text[0]) - ord("a") + 1, offset
        each["state"] = 2 if text.endswith("!") else STATE_PUBLIC
        each["name"]["L"] = each["name"]["O"].lower()
    return table | {"state": STATE_PUBLIC, "update_timestamp": 0} | properties


class MetaCluster:
    """A `MetaReader` over keys in memory."""

    def __init__(self) -> None:
        self.ts = 1000
        self.version = 0
        self.keys: dict[bytes, list[MetaWrite]] = defaultdict(list)
        self.locks: dict[bytes, int] = {}
        self.jobs: list[FinishedJob] = []
        self.reads = 0
        self._databases: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._tables: dict[tuple[int, int], Info] = {}
        self.stale: list[ListedDatabase] | None = None
        """The databases that the server lists while its schema is outdated."""

    def tso(self) -> TimeStamp:
        """Return a timestamp that PD would allocate now."""
        self.ts += 10
        return TimeStamp(self.ts)

    def raise_version(self) -> None:
        """The first transaction of a step."""
        self.version += 1
        self._commit(self.tso(), {SCHEMA_VERSION_KEY: b"%d" % self.version})

    def step(
        self,
        action: int,
        changes: Iterable[Change] = (),
        *,
        database: tuple[int, str | None] | None = None,
        diff: Info | None = None,
        ends: bool = True,
    ) -> TimeStamp:
        """Create a schema version; return the commit_ts of its tables. `ends` finishes its job."""
        self.raise_version()
        return self.change(action, changes, database=database, diff=diff, ends=ends)

    def change(
        self,
        action: int,
        changes: Iterable[Change] = (),
        *,
        database: tuple[int, str | None] | None = None,
        diff: Info | None = None,
        ends: bool = True,
    ) -> TimeStamp:
        """The second transaction of a step."""
        start_ts, writes = self.tso(), dict[bytes, bytes | None]()
        tables: dict[TableID, Info] = {}
        schema_id = table_id = 0
        for schema_id, table_id, table in changes:
            old = self._tables.pop((schema_id, table_id), None)
            if table is not None:
                table = {**table, "update_timestamp": start_ts}
                self._tables[schema_id, table_id] = table
            tables[TableID(table_id)] = table or old or {}
            text = None if table is None else json.dumps(table).encode()
            writes[table_key(schema_id, TableID(table_id))] = text
        if database is not None:
            schema_id, name = database
            self._write_database(schema_id, name, writes)
        body = {"version": self.version, "type": action, "schema_id": schema_id}
        body |= {"table_id": table_id, "old_table_id": 0, "old_schema_id": 0} | dict(diff or {})
        writes[diff_key(SchemaVersion(self.version))] = json.dumps(body).encode()
        if ends:
            name = self._names[schema_id] if schema_id else ""
            self.jobs.append(FinishedJob(SchemaVersion(self.version), schema_id, name, tables))
        return self._commit(start_ts, writes)

    def collect(self, safe_point: int) -> None:
        """Keep the versions above the safe point, and each key's newest below unless a delete."""
        for writes in self.keys.values():
            old = [w for w in writes if w.commit_ts <= safe_point]
            kept = [w for w in old[-1:] if w.value is not None]
            writes[: len(old)] = kept

    def read_key(self, key: bytes) -> MetaKey:
        self.reads += 1
        lock = self.locks.get(key)
        return MetaKey(tuple(self.keys.get(key, ())), None if lock is None else TimeStamp(lock))

    def list_databases(self) -> list[ListedDatabase]:
        if self.stale is not None:
            return self.stale
        return [
            ListedDatabase(
                database_id,
                name,
                tuple(
                    ListedTable(TableID(i), t["state"] == STATE_PUBLIC, t["update_timestamp"])
                    for (db, i), t in self._tables.items()
                    if db == database_id
                ),
            )
            for database_id, name in self._databases.items()
        ]

    def finished_jobs(self, above: SchemaVersion) -> list[FinishedJob]:
        return [job for job in self.jobs if job.version > above][::-1]

    def _write_database(
        self, database_id: int, name: str | None, writes: dict[bytes, bytes | None]
    ) -> None:
        """Create a database, or drop it (`name` None) with its tables, which are not in the job."""
        if name is not None:
            self._databases[database_id] = self._names[database_id] = name
            text = json.dumps({"id": database_id, "db_name": {"O": name}, "state": STATE_PUBLIC})
            writes[database_key(database_id)] = text.encode()
            return
        del self._databases[database_id]
        for place in [p for p in self._tables if p[0] == database_id]:
            del self._tables[place]
            writes[table_key(database_id, TableID(place[1]))] = None
        writes[database_key(database_id)] = None

    def _commit(self, start_ts: int, writes: Mapping[bytes, bytes | None]) -> TimeStamp:
        commit_ts = self.tso()
        for key, value in writes.items():
            self.keys[key].append(MetaWrite(TimeStamp(start_ts), commit_ts, value))
        return commit_ts
