"""Small stores with chosen rows, made by the engine alone, for tests of the read side."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication, VersionBatch
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.storage.store.catalog import schema_records
from pyspark_theflash.storage.store.feed import Feed, feed_record
from pyspark_theflash.storage.store.folder import open_manifest, read_identity
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info

OLDEST_TS = TimeStamp(100)
Version = tuple[int, int, Sequence[Any] | None]
"""A row's handle, its commit_ts and values; None for a delete."""


def column(name: str, tp: MySQLType, **properties: Any) -> dict[str, Any]:
    """Return a column in TableInfo's JSON; `properties` are `flag`, `flen`, `comment`, ..."""
    field_type = {
        "Tp": int(tp),
        "Flag": int(properties.pop("flag", 0)),
        "Flen": properties.pop("flen", -1),
        "Decimal": properties.pop("decimal", -1),
        "Charset": properties.pop("charset", "utf8mb4"),
        "Collate": properties.pop("collate", ""),
        "Elems": properties.pop("elems", None),
    }
    return {"name": {"O": name}, "type": field_type, "state": 5, **properties}


def id_column(name: str = "id") -> dict[str, Any]:
    """A BIGINT column that is the primary key and the handle."""
    return column(name, MySQLType.LONGLONG, flag=ColumnFlag.NOT_NULL | ColumnFlag.PRI_KEY)


def table_info(
    table_id: int, full_name: str, columns: Sequence[dict[str, Any]], *, has_rowid: bool = False
) -> TableInfo:
    """A table called `db.table`; an integer primary key is the handle unless `has_rowid`."""
    db, _, name = full_name.partition(".")
    numbered = [{"id": n + 1, "offset": n, **info} for n, info in enumerate(columns)]
    info = {"id": table_id, "name": {"O": name}, "cols": numbered, "pk_is_handle": not has_rowid}
    return parse_table_info(db, info)


def publication(
    tables: Sequence[TableInfo],
    resolved_ts: int,
    versions: Mapping[TableInfo, Sequence[Version]],
    *,
    oldest_ts: TimeStamp = OLDEST_TS,
    feed: Feed = Feed.API,
) -> Publication:
    """Versions of these tables, with the records of a store that has the tables from the start."""
    batches = [_batch(table, rows) for table, rows in versions.items()]
    now = TimeStamp(resolved_ts)
    events = [TableEvent(OLDEST_TS, table.db, table.id, table) for table in tables]
    records = [
        feed_record(feed),
        *schema_records(SchemaHistory(OLDEST_TS, now, events, ())),
        Progress(oldest_ts, now).to_record(),
    ]
    return Publication(batches, ManifestChange(records))


class StoreBuilder:
    """A store that holds `tables` from `OLDEST_TS` on, and nothing in them until `publish`.

    An existing store is continued.
    """

    def __init__(
        self,
        path: Path,
        *tables: TableInfo,
        feed: Feed = Feed.API,
        engine: str = registry.MAGIC,
    ) -> None:
        self.path = path
        self._fs, self._clock = LocalFileSystem(), SystemClock()
        self._identity = (
            read_identity(path, self._fs)
            if path.exists()
            else registry.create(path, engine, self._fs)
        )
        self._tables, self._feed = tables, feed

    def publish(
        self, resolved_ts: int, versions: Mapping[TableInfo, Sequence[Version]] | None = None
    ) -> "StoreBuilder":
        """Publish versions, and make `resolved_ts` the newest readable timestamp."""
        change = publication(self._tables, resolved_ts, versions or {}, feed=self._feed)
        engine = registry.open_engine(self.path, self._identity, self._fs, self._clock)
        try:
            engine.publish(change)
        finally:
            engine.close()
        return self

    def end_leases(self) -> None:
        """Let all read latches expire."""
        with closing(open_manifest(self.path, self._fs)) as manifest:
            LeaseTable(manifest, _Tomorrow()).oldest_generation()


class _Tomorrow(SystemClock):
    def boottime_ms(self) -> int:
        return super().boottime_ms() + 86_400_000


def _batch(table: TableInfo, versions: Sequence[Version]) -> VersionBatch:
    rows = sorted(versions, key=lambda version: version[:2])
    columns = [(c.id, arrow_type(c.type)) for c in table.public_columns]
    values = [row or [None] * len(columns) for _, _, row in rows]
    system = [
        [handle for handle, _, _ in rows],
        [commit_ts for _, commit_ts, _ in rows],
        [commit_ts - 1 for _, commit_ts, _ in rows],
        [int(Op.PUT if row else Op.DELETE) for _, _, row in rows],
    ]
    schema = version_schema(pa.int64(), columns)
    arrays = [
        pa.array(list(cells), field.type)
        for cells, field in zip([*system, *zip(*values, strict=True)], schema, strict=True)
    ]
    return VersionBatch(
        PhysicalTableID(table.id), pa.RecordBatch.from_arrays(arrays, schema=schema)
    )
