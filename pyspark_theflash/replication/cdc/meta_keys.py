"""Meta keys as a change feed delivers them: a `MetaReader` of the changes after a history's end.

    schema version     kept: the newest one
    SchemaDiff         kept until the history has its commit
    TableInfo          "
    finished job       kept for the diffs that follow: a job is stored after its last diff
    all others         ignored: ids that TiDB allocates for rows, statistics, queues of DDL jobs

The writes of a transaction have the same commit_ts, which identifies it: DDL commits in two phases,
with a timestamp of PD. The frontier shows that no commit is missing, so there are no locks here.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from pyspark_theflash.base.errors import SchemaFileError
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.replication.cdc.change_feed import MetaChange
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, load
from pyspark_theflash.tidb.schema.diff import SchemaDiff, parse_diff
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.meta_key import (
    DATABASE_FIELD,
    DBS,
    DIFF_NAME,
    JOB_HISTORY,
    SCHEMA_VERSION_KEY,
    TABLE_FIELD,
    FinishedJob,
    ListedDatabase,
    MetaKey,
    MetaName,
    MetaReader,
    MetaWrite,
    decode_meta_key,
    finished_job,
    number_after,
)


class ReceivedMetaKeys:
    """Meta keys after the end of `history`; `reader` reads what the feed does not deliver again."""

    def __init__(self, reader: MetaReader, history: SchemaHistory) -> None:
        self._reader, self._history = reader, history
        self.up_to: TimeStamp = history.end_ts
        """Newest timestamp whose writes are returned."""
        self._writes: dict[bytes, list[MetaWrite]] = defaultdict(list)
        self._jobs: list[tuple[TimeStamp, FinishedJob]] = []
        self._diffs: list[SchemaDiff] = []
        self._databases: dict[bytes, MetaKey] = {}

    def add(self, changes: Iterable[MetaChange]) -> None:
        """Add changes, in the order of commit_ts.

        Raises:
            SchemaFileError: A value is malformed.
        """
        for change in changes:
            name = decode_meta_key(change.key)
            if name is None:
                continue
            write = MetaWrite(change.commit_ts, change.commit_ts, change.value)
            if name.name == JOB_HISTORY:
                self._add_job(write)
            elif change.key == SCHEMA_VERSION_KEY or _is_definition(name):
                self._writes[change.key].append(write)
            elif (version := number_after(name.name, DIFF_NAME)) is not None:
                self._writes[change.key].append(write)
                self._add_diff(SchemaVersion(version), write)

    @property
    def has_changes(self) -> bool:
        """Whether the schema has changed after the history's end."""
        return any(writes[0].commit_ts <= self.up_to for writes in self._writes.values())

    def diffs(self, up_to: TimeStamp) -> Iterator[SchemaDiff]:
        """Yield the diffs after the history's end and up to a timestamp."""
        return (diff for diff in self._diffs if diff.commit_ts <= up_to)

    def advance(self, history: SchemaHistory) -> None:
        """Remove the changes that a longer history contains."""
        self._history, end_ts = history, history.end_ts
        remaining = {
            key: [write for write in writes if write.commit_ts > end_ts]
            for key, writes in self._writes.items()
        }
        self._writes = defaultdict(list, {key: left for key, left in remaining.items() if left})
        self._jobs = [(ts, job) for ts, job in self._jobs if ts > end_ts]
        self._diffs = [diff for diff in self._diffs if diff.commit_ts > end_ts]

    # The interface of `MetaReader`.

    def read_key(self, key: bytes) -> MetaKey:
        """Return the writes after the history's end, after one in place of all earlier ones."""
        writes = tuple(w for w in self._writes.get(key, ()) if w.commit_ts <= self.up_to)
        if key == SCHEMA_VERSION_KEY and self._history.versions:
            last = self._history.versions[-1]
            return MetaKey((MetaWrite(last.ts, last.ts, b"%d" % last.version), *writes))
        name = decode_meta_key(key)
        if name is None:
            return MetaKey(writes)
        if name.name == DBS:
            return self._database(key, writes)
        table_id = number_after(name.field or b"", TABLE_FIELD)
        before = () if table_id is None else self._history.events_of(TableID(table_id))
        if before and before[-1].name is not None:
            return MetaKey((MetaWrite(before[-1].ts, before[-1].ts, b""), *writes))
        return MetaKey(writes)

    def list_databases(self) -> list[ListedDatabase]:
        return self._reader.list_databases()

    def finished_jobs(self, above: SchemaVersion) -> list[FinishedJob]:
        return [job for _, job in self._jobs if job.version > above]

    # --

    def _add_job(self, write: MetaWrite) -> None:
        if write.value is None:
            return
        try:
            self._jobs.append((write.commit_ts, finished_job(load(write.value))))
        except SHAPE_ERRORS as error:
            raise SchemaFileError("DDLJobHistory", f"not a job: {brief(error)}") from error

    def _add_diff(self, version: SchemaVersion, write: MetaWrite) -> None:
        if write.value is None:
            return
        try:
            self._diffs.append(parse_diff(version, write))
        except SHAPE_ERRORS as error:
            reason = f"not a SchemaDiff: {brief(error)}"
            raise SchemaFileError(f"Diff:{version}", reason) from error

    def _database(self, key: bytes, writes: tuple[MetaWrite, ...]) -> MetaKey:
        """Return a write with the name of a database, which never changes."""
        state = self._databases.get(key)
        if state is None:
            is_created = any(write.value is not None for write in writes)
            state = MetaKey(writes) if is_created else self._reader.read_key(key)
            self._databases[key] = state
        return state


def _is_definition(name: MetaName) -> bool:
    """Return whether a key is that of a DBInfo or a TableInfo."""
    if name.field is None:
        return False
    if name.name == DBS:
        return name.field.startswith(DATABASE_FIELD)
    is_database = number_after(name.name, DATABASE_FIELD) is not None
    return is_database and number_after(name.field, TABLE_FIELD) is not None
