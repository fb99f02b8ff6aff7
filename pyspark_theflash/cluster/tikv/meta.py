"""A cluster's meta keys, read from TiKV itself: a `MetaReader` that needs no TiDB server.

Old versions of a key come by the call that TiDB's status port answers `/mvcc` with. What is listed
is a snapshot at a fresh timestamp, so, unlike what a TiDB server has loaded, it is never behind.
"""

from collections.abc import Iterator
from typing import Final

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import SchemaFileError, ServiceUnavailableError
from pyspark_theflash.base.types import SchemaVersion, TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, load
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.meta_key import (
    DATABASE_FIELD,
    DBS,
    JOB_HISTORY,
    SCHEMA_VERSION_KEY,
    TABLE_FIELD,
    FinishedJob,
    ListedDatabase,
    ListedTable,
    MetaKey,
    MetaWrite,
    database_hash,
    finished_job,
    hash_field,
    hash_prefix,
    listed_table,
)

TIMEOUT_MS: Final = 30_000


class TiKVMeta:
    """A `MetaReader`. Methods raise what `TiKVClient` does, and end within `timeout_ms`."""

    def __init__(self, client: TiKVClient, timeout_ms: int = TIMEOUT_MS) -> None:
        self._client, self._timeout_ms = client, timeout_ms

    def read_key(self, key: bytes) -> MetaKey:
        """All committed changes of a key, and its lock.

        Raises:
            ServiceUnavailableError: it is the schema version, and no TiDB has made a schema yet.
        """
        found = self._client.mvcc_get(RawKey(key), self._deadline())
        if key == SCHEMA_VERSION_KEY and not found.writes:
            raise ServiceUnavailableError("TiKV", "it has no schema; has a TiDB ever started?")
        writes = tuple(MetaWrite(w.start_ts, w.commit_ts, w.value) for w in found.writes)
        return MetaKey(writes, found.locked_ts, found.ends)

    def list_databases(self) -> list[ListedDatabase]:
        """All databases and tables as of now.

        Raises:
            SchemaFileError: a key holds something else than it should.
        """
        deadline = self._deadline()
        ts = self._client.now(deadline)
        found = []
        for field, value in self._fields(DBS, ts, deadline):
            if field.startswith(DATABASE_FIELD):
                try:
                    info = load(value)
                    database_id, name = int(info["id"]), str(info["db_name"]["O"])
                except SHAPE_ERRORS as error:
                    raise _strange(field, "a DBInfo", error) from error
                tables = tuple(self._tables(database_id, ts, deadline))
                found.append(ListedDatabase(database_id, name, tables))
        return found

    def finished_jobs(self, above: SchemaVersion) -> list[FinishedJob]:
        """The DDL jobs that ended with a schema version above, newest first.

        Raises:
            SchemaFileError: a key holds something else than it should.
        """
        deadline = self._deadline()
        found = []
        for field, value in self._fields(JOB_HISTORY, self._client.now(deadline), deadline):
            try:
                job = finished_job(load(value))
            except SHAPE_ERRORS as error:
                raise _strange(b"DDL job " + field.hex().encode(), "a job", error) from error
            if job.version > above:
                found.append(job)
        return sorted(found, key=lambda job: job.version, reverse=True)

    def _tables(self, database_id: int, ts: TimeStamp, deadline: Deadline) -> Iterator[ListedTable]:
        for field, value in self._fields(database_hash(database_id), ts, deadline):
            if field.startswith(TABLE_FIELD):
                try:
                    yield listed_table(load(value))
                except SHAPE_ERRORS as error:
                    raise _strange(field, "a TableInfo", error) from error

    def _fields(
        self, name: bytes, ts: TimeStamp, deadline: Deadline
    ) -> Iterator[tuple[bytes, bytes]]:
        """The fields of a hash at a timestamp, and their values."""
        prefix = hash_prefix(name)
        keys = RawKeyRange(RawKey(prefix), RawKey(prefix[:-1] + bytes([prefix[-1] + 1])))
        for page in self._client.scan(keys, ts, deadline):
            for key, value in page:
                yield hash_field(key, prefix), value

    def _deadline(self) -> Deadline:
        return Deadline(self._client.clock, self._timeout_ms)


def _strange(field: bytes, expected: str, error: Exception) -> SchemaFileError:
    return SchemaFileError(field.decode(errors="replace"), f"not {expected}: {brief(error)}")
