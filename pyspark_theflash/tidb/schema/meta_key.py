"""Meta keys: where TiDB stores its schema in TiKV, and the versions of such a key.

    schema version    m SchemaVersionKey s      a decimal number
    difference        m Diff:VERSION s          JSON: SchemaDiff
    database          m DBs h DB:ID             JSON: DBInfo
    table             m DB:ID h Table:ID        JSON: TableInfo
    DDL job           m DDLJobHistory h int(ID) JSON: Job, after it has finished

Names are memcomparable; `s` (a string) and `h` (a field of a hash) are 8-byte integers. As in
TiDB's `meta/meta.go` and `structure/type.go`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

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
DIFF_NAME: Final = b"Diff:"
SCHEMA_VERSION_KEY: Final = b"m" + encode_bytes(b"SchemaVersionKey") + _STRING


def diff_key(version: SchemaVersion) -> bytes:
    """Return the key of the SchemaDiff of a schema version."""
    return b"m" + encode_bytes(b"%b%d" % (DIFF_NAME, version)) + _STRING


def database_key(database_id: int) -> bytes:
    """Return the key of a DBInfo."""
    return hash_prefix(DBS) + encode_bytes(database_hash(database_id))


def table_key(database_id: int, table_id: TableID) -> bytes:
    """Return the key of a TableInfo; it changes when the table moves to another database."""
    return hash_prefix(database_hash(database_id)) + encode_bytes(b"Table:%d" % table_id)


def hash_prefix(name: bytes) -> bytes:
    """Return the key prefix of a hash: `DBS`, `JOB_HISTORY` or `database_hash`."""
    return b"m" + encode_bytes(name) + _HASH


def database_hash(database_id: int) -> bytes:
    """Return the name of the hash of a database's tables."""
    return b"DB:%d" % database_id


def hash_field(key: bytes, prefix: bytes) -> bytes:
    """Return the hash field of a key with the prefix `prefix`. Raises `CodecError`."""
    field, end = decode_bytes(key, len(prefix))
    if not key.startswith(prefix) or end != len(key):
        raise CodecError("meta key", "not a field of this hash", 0, key[:16].hex())
    return field


class MetaName(NamedTuple):
    """Name of a meta key, and its field if it belongs to a hash."""

    name: bytes
    field: bytes | None


def decode_meta_key(key: bytes) -> MetaName | None:
    """Decode the key of a string or of a hash's field; None for other keys."""
    try:
        name, end = decode_bytes(key, 1)
        kind, rest = key[end : end + len(_HASH)], end + len(_HASH)
        if kind == _STRING and rest == len(key):
            return MetaName(name, None)
        if kind != _HASH:
            return None
        field, end = decode_bytes(key, rest)
        return MetaName(name, field) if end == len(key) else None
    except CodecError:
        return None


def number_after(name: bytes, prefix: bytes) -> int | None:
    """Return the number after a prefix, as in `Diff:7`; None if there is none."""
    digits = name.removeprefix(prefix)
    return int(digits) if name.startswith(prefix) and digits.isdigit() else None


@dataclass(frozen=True, slots=True)
class MetaWrite:
    """One committed write of a key; `value` is None if the key was deleted."""

    start_ts: TimeStamp
    commit_ts: TimeStamp
    value: bytes | None


class OutcomeState(Enum):
    """State of a transaction in TiKV."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    OPEN = "open"
    """The primary key is locked: the transaction may still commit."""
    UNKNOWN = "unknown to TiKV"
    """There is neither a lock nor a record: not written yet, or garbage collected."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Final state of a transaction; `commit_ts` is 0 if rolled back, None if not ended."""

    state: OutcomeState
    commit_ts: TimeStamp | None


@dataclass(frozen=True, slots=True)
class MetaKey:
    """Committed writes of a key, oldest first, except those garbage collected.

    `locked_ts` is the start_ts of a transaction that has locked the key: it may commit, or have
    committed, at any timestamp above. `ends` maps the start_ts of all transactions with a write
    record (also those without a change of value) to their commit_ts; 0 if rolled back.
    """

    writes: tuple[MetaWrite, ...]
    locked_ts: TimeStamp | None = None
    ends: Mapping[TimeStamp, TimeStamp] = field(default_factory=dict)

    def at(self, ts: TimeStamp) -> MetaWrite | None:
        """Return the newest write at or below `ts`."""
        return next((w for w in reversed(self.writes) if w.commit_ts <= ts), None)

    def of(self, start_ts: TimeStamp) -> MetaWrite | None:
        """Return the write of the transaction `start_ts`."""
        return next((w for w in self.writes if w.start_ts == start_ts), None)

    def outcome(self, start_ts: TimeStamp) -> "Outcome":
        """Return the outcome of the transaction whose primary key this is."""
        if (commit_ts := self.ends.get(start_ts)) is not None:
            state = OutcomeState.COMMITTED if commit_ts else OutcomeState.ROLLED_BACK
            return Outcome(state, commit_ts)
        is_open = self.locked_ts == start_ts
        return Outcome(OutcomeState.OPEN if is_open else OutcomeState.UNKNOWN, None)


@dataclass(frozen=True, slots=True)
class ListedTable:
    """Table loaded by a TiDB server; `update_ts` differs between states of the same table."""

    id: TableID
    is_public: bool
    update_ts: TimeStamp


@dataclass(frozen=True, slots=True)
class ListedDatabase:
    """Database loaded by a TiDB server."""

    id: int
    name: str
    tables: tuple[ListedTable, ...]


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """DDL job that finished with schema `version`.

    `tables` has the TableInfo, as JSON, of the tables that it changed: as it left them or, if it
    dropped them, as they were before.
    """

    version: SchemaVersion
    database_id: int
    database: str
    tables: Mapping[TableID, Mapping[str, Any]]
    session: ReorgSession | None = None
    """Time zone and sql_mode of a job that rewrote rows, from when the job began."""


class MetaReader(Protocol):
    """Reader of a cluster's meta keys. Every method may raise network errors."""

    def read_key(self, key: bytes) -> MetaKey:
        """Return all writes of a key committed before the call, and its lock."""

    def list_databases(self) -> list[ListedDatabase]:
        """Return what one TiDB server has loaded; it may be slightly behind the keys."""

    def finished_jobs(self, above: SchemaVersion) -> list[FinishedJob]:
        """Return the DDL jobs with a schema version above `above`; TiDB retains all of them."""


def listed_table(info: Mapping[str, Any]) -> ListedTable:
    """Convert TableInfo JSON; raises one of `SHAPE_ERRORS` if it is not one."""
    return ListedTable(
        TableID(int(info["id"])),
        info["state"] == STATE_PUBLIC,
        TimeStamp(int(info["update_timestamp"])),
    )


def finished_job(job: Mapping[str, Any]) -> FinishedJob:
    """Convert Job JSON; raises one of `SHAPE_ERRORS` if it is not one.

    Failed jobs have version 0.
    """
    result = job["binlog"] or {}
    tables = [result.get("TableInfo"), *(result.get("MultipleTableInfos") or ())]
    database = (result.get("DBInfo") or {}).get("db_name", {}).get("O")
    return FinishedJob(
        SchemaVersion(int(result.get("SchemaVersion", 0))),
        int(job["schema_id"]),
        str(database or job["schema_name"]),
        {TableID(int(info["id"])): info for info in tables if info},
        _session(job),
    )


def _session(job: Mapping[str, Any]) -> ReorgSession | None:
    """Return the job's session; the caller sets `to_ms` to the commit of the schema version."""
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
