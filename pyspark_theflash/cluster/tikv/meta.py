"""Read a cluster's meta keys from TiKV: a `MetaReader` that needs no TiDB server.

Old versions of a key are read with MvccGetByKey, as TiDB's status port does for `/mvcc`. Listings
are read from a snapshot at a new timestamp, so they are never stale, unlike the schema that a TiDB
server has loaded.
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
    database_hash,
    finished_job,
    hash_field,
    hash_prefix,
    listed_table,
)

TIMEOUT_MS: Final = 30_000


class TiKVMeta:
    """A `MetaReader`. Methods raise the errors of `TiKVClient`, and end within `timeout_ms`."""

    def __init__(self, client: TiKVClient, timeout_ms: int = TIMEOUT_MS) -> None:
        self._client, self._timeout_ms = client, timeout_ms

    def read_key(self, key: bytes) -> MetaKey:
        """Return all committed changes of a key, and its lock.

        Raises:
            ServiceUnavailableError: The key is the schema version, and the cluster has no schema.
        """
        meta_key = self._client.mvcc_get(RawKey(key), self._deadline())
        if key == SCHEMA_VERSION_KEY and not meta_key.writes:
            raise ServiceUnavailableError("TiKV", "it has no schema; has a TiDB ever started?")
        return meta_key

    def list_databases(self) -> list[ListedDatabase]:
        """Return the current databases and tables.

        Raises:
            SchemaFileError: A value is malformed.
        """
        deadline = self._deadline()
        ts = self._client.now(deadline)
        databases = []
        for field, value in self._fields(DBS, ts, deadline):
            if field.startswith(DATABASE_FIELD):
                try:
                    info = load(value)
                    database_id, name = int(info["id"]), str(info["db_name"]["O"])
                except SHAPE_ERRORS as error:
                    raise _malformed(field, "a DBInfo", error) from error
                tables = tuple(self._tables(database_id, ts, deadline))
                databases.append(ListedDatabase(database_id, name, tables))
        return databases

    def finished_jobs(self, above: SchemaVersion) -> list[FinishedJob]:
        """Return the finished DDL jobs above a schema version, newest first.

        Raises:
            SchemaFileError: A value is malformed.
        """
        deadline = self._deadline()
        jobs = []
        for field, value in self._fields(JOB_HISTORY, self._client.now(deadline), deadline):
            try:
                job = finished_job(load(value))
            except SHAPE_ERRORS as error:
                raise _malformed(b"DDL job " + field.hex().encode(), "a job", error) from error
            if job.version > above:
                jobs.append(job)
        return sorted(jobs, key=lambda job: job.version, reverse=True)

    def _tables(self, database_id: int, ts: TimeStamp, deadline: Deadline) -> Iterator[ListedTable]:
        for field, value in self._fields(database_hash(database_id), ts, deadline):
            if field.startswith(TABLE_FIELD):
                try:
                    yield listed_table(load(value))
                except SHAPE_ERRORS as error:
                    raise _malformed(field, "a TableInfo", error) from error

    def _fields(
        self, name: bytes, ts: TimeStamp, deadline: Deadline
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the fields of a hash at a timestamp, with their values."""
        prefix = hash_prefix(name)
        for page in self._client.scan(RawKeyRange.of_prefix(prefix), ts, deadline):
            for key, value in page:
                yield hash_field(key, prefix), value

    def _deadline(self) -> Deadline:
        return Deadline(self._client.clock, self._timeout_ms)


def _malformed(field: bytes, expected: str, error: Exception) -> SchemaFileError:
    return SchemaFileError(field.decode(errors="replace"), f"not {expected}: {brief(error)}")
