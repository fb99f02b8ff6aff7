"""The keys under which TiDB keeps its schema in TiKV, and how one of them has changed.

    schema version    m SchemaVersionKey s      a decimal number
    difference        m Diff:VERSION s          JSON: which tables a version changed
    database          m DBs h DB:ID             JSON: DBInfo
    table             m DB:ID h Table:ID        JSON: TableInfo
    DDL job           m DDLJobHistory h int(ID) JSON: Job, once it has ended

Names are memcomparable, `s` (a string) and `h` (a field of a hash) 8-byte integers. As in TiDB's
`meta/meta.go` and `structure/type.go`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp, physical_ms
from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.change import ReorgSession
from pyspark_theflash.tidb.codec.number import encode_uint
from pyspark_theflash.tidb.schema.model import STATE_PUBLIC

_STRING: Final = encode_uint(ord("s"))
_HASH: Final = encode_uint(ord("h"))

DBS: Final = b"DBs"
JOB_HISTORY: Final = b"DDLJobHistory"
DATABASE_FIELD: Final = b"DB:"
TABLE_FIELD: Final = b"Table:"
SCHEMA_VERSION_KEY: Final = b"m" + encode_bytes(b"SchemaVersionKey") + _STRING


def diff_key(version: SchemaVersion) -> bytes:
    """Where the difference between a schema version and the one before is."""
    return b"m" + encode_bytes(b"Diff:%d" % version) + _STRING


def database_key(database_id: int) -> bytes:
    """Where a DBInfo is."""
    return b"m" + encode_bytes(b"DBs") + _HASH + encode_bytes(b"DB:%d" % database_id)


def table_key(database_id: int, table_id: TableID) -> bytes:
    """Where a TableInfo is; a table that moves to another database has another key."""
    return (
        b"m" + encode_bytes(b"DB:%d" % database_id) + _HASH + encode_bytes(b"Table:%d" % table_id)
    )


def hash_prefix(name: bytes) -> bytes:
    """What the keys of a hash begin with: `DBS`, `JOB_HISTORY` or `database_hash`."""
    return b"m" + encode_bytes(name) + _HASH


def database_hash(database_id: int) -> bytes:
    """The hash of a database's tables."""
    return b"DB:%d" % database_id


def hash_field(key: bytes, prefix: bytes) -> bytes:
    """The field of a hash that a key is of.

    Raises:
        CodecError: it is no such key.
    """
    field, end = decode_bytes(key, len(prefix))
    if not key.startswith(prefix) or end != len(key):
        raise CodecError("meta key", "not a field of this hash", 0, key[:16].hex())
    return field


@dataclass(frozen=True, slots=True)
class MetaWrite:
    """One committed change of a key; `value` is None where the key was deleted."""

    start_ts: TimeStamp
    commit_ts: TimeStamp
    value: bytes | None


class OutcomeState(Enum):
    """What TiKV says of a transaction."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    OPEN = "open"
    """Its primary key is locked: it may still commit."""
    UNKNOWN = "unknown to TiKV"
    """It has neither a lock nor a record: not there yet, or collected as garbage since."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transaction ended. `commit_ts` is 0 if it was rolled back, None if it has not ended."""

    state: OutcomeState
    commit_ts: TimeStamp | None


@dataclass(frozen=True, slots=True)
class MetaKey:
    """A key's committed changes, oldest first, as far back as garbage collection has left them.

    `locked_ts` is the start_ts of a transaction that is about to change the key: it may commit, or
    have committed, at any timestamp above. `ends` has the commit_ts, by start_ts, of all
    transactions that have left a record, also of those that changed nothing; 0 if rolled back.
    """

    writes: tuple[MetaWrite, ...]
    locked_ts: TimeStamp | None = None
    ends: Mapping[TimeStamp, TimeStamp] = field(default_factory=dict)

    def at(self, ts: TimeStamp) -> MetaWrite | None:
        """The newest change at or below `ts`."""
        return next((w for w in reversed(self.writes) if w.commit_ts <= ts), None)

    def of(self, start_ts: TimeStamp) -> MetaWrite | None:
        """The change that one transaction made."""
        return next((w for w in self.writes if w.start_ts == start_ts), None)

    def outcome(self, start_ts: TimeStamp) -> "Outcome":
        """What this key, as a transaction's primary key, says of the transaction."""
        if (commit_ts := self.ends.get(start_ts)) is not None:
            state = OutcomeState.COMMITTED if commit_ts else OutcomeState.ROLLED_BACK
            return Outcome(state, commit_ts)
        is_open = self.locked_ts == start_ts
        return Outcome(OutcomeState.OPEN if is_open else OutcomeState.UNKNOWN, None)


@dataclass(frozen=True, slots=True)
class ListedTable:
    """A table as a TiDB server has it loaded; `update_ts` tells two states of it apart."""

    id: TableID
    is_public: bool
    update_ts: TimeStamp


@dataclass(frozen=True, slots=True)
class ListedDatabase:
    """A database as a TiDB server has it loaded."""

    id: int
    name: str
    tables: tuple[ListedTable, ...]


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A DDL job that reached its end with schema `version`.

    `tables` are those it was about as it left them, or as they were when it dropped them: their
    TableInfo as JSON, by table id.
    """

    version: SchemaVersion
    database_id: int
    database: str
    tables: Mapping[TableID, Mapping[str, Any]]
    session: ReorgSession | None = None
    """Of a job that rewrote rows: the time zone and sql_mode that it went by, when it began."""


class MetaReader(Protocol):
    """Where a cluster's schema is read from. All raise what the network makes them raise."""

    def read_key(self, key: bytes) -> MetaKey:
        """All changes of a key that were committed before the call, and its lock."""

    def list_databases(self) -> list[ListedDatabase]:
        """What one TiDB server has loaded, which may be behind the keys for a moment."""

    def finished_jobs(self, above: SchemaVersion) -> list[FinishedJob]:
        """The DDL jobs that ended with a schema version above; these are kept for good."""


def listed_table(info: Mapping[str, Any]) -> ListedTable:
    """A table out of its TableInfo as JSON; raises one of `SHAPE_ERRORS` where it is none."""
    return ListedTable(
        TableID(int(info["id"])),
        info["state"] == STATE_PUBLIC,
        TimeStamp(int(info["update_timestamp"])),
    )


def finished_job(job: Mapping[str, Any]) -> FinishedJob:
    """A job out of JSON; raises one of `SHAPE_ERRORS` where it is none.

    Jobs that failed have version 0.
    """
    left = job["binlog"] or {}
    tables = [left.get("TableInfo"), *(left.get("MultipleTableInfos") or ())]
    database = (left.get("DBInfo") or {}).get("db_name", {}).get("O")
    return FinishedJob(
        SchemaVersion(int(left.get("SchemaVersion", 0))),
        int(job["schema_id"]),
        str(database or job["schema_name"]),
        {TableID(int(info["id"])): info for info in tables if info},
        _session(job),
    )


def _session(job: Mapping[str, Any]) -> ReorgSession | None:
    """`to_ms` is left open: the job's end is the commit of its schema version."""
    reorg = job.get("reorg_meta") or {}
    location, mode = reorg.get("location"), reorg.get("sql_mode")
    if not location:
        return None
    from_ms = physical_ms(TimeStamp(int(job["start_ts"])))
    return ReorgSession(
        str(location["name"]),
        int(location["offset"]),
        from_ms,
        from_ms,
        None if mode is None else int(mode),
    )
