"""Rows of Arrow as versions in a store, many at a time, as a writer would have left them."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Publication, VersionBatch
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.storage.store.catalog import schema_records
from pyspark_theflash.storage.store.feed import Feed, feed_record
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.storage.store.progress import Progress
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo

BATCH_ROWS = 100_000
OLDEST, NEWEST = TimeStamp(1), TimeStamp(1 << 40)


def make_store(path: Path, tables: Sequence[TableInfo]) -> None:
    """A store of these tables, with nothing in them, that can be read at `NEWEST`."""
    fs = LocalFileSystem()
    registry.create(path, registry.MAGIC, fs)
    events = [TableEvent(OLDEST, table.db, table.id, table) for table in tables]
    records = [feed_record(Feed.API), *schema_records(SchemaHistory(OLDEST, NEWEST, events, ()))]
    with closing(MagicEngine(path, fs, SystemClock())) as engine:
        engine.publish(
            Publication([], ManifestChange([*records, Progress(OLDEST, NEWEST).to_record()]))
        )


def publish(
    path: Path,
    table: TableInfo,
    rows: pa.Table,
    handles: np.ndarray,
    first_ts: int,
    *,
    everything: bool = False,
) -> None:
    """Versions of rows under these handles, a transaction each from `first_ts` on.

    Compacted as a writer does; `everything`: into the form that reads fastest.
    """
    columns = [scan_column(table, c) for c in table.public_columns]
    schema = version_schema(pa.int64(), [(c.id, c.type) for c in columns])
    physical_id = PhysicalTableID(table.id)
    with closing(MagicEngine(path, LocalFileSystem(), SystemClock())) as engine:
        for start in range(0, len(rows), BATCH_ROWS):
            part = rows.slice(start, BATCH_ROWS).combine_chunks()
            begin = first_ts + start
            stamps = pa.array(np.arange(begin, begin + len(part), dtype=np.uint64))
            ops = pa.array(np.full(len(part), Op.PUT, np.uint8))
            values = [c.chunk(0).cast(t.type) for c, t in zip(part.columns, columns, strict=True)]
            system = [pa.array(handles[start : start + len(part)]), stamps, stamps, ops]
            batch = pa.RecordBatch.from_arrays([*system, *values], schema=schema)
            engine.publish(Publication([VersionBatch(physical_id, batch)], ManifestChange()))
            engine.compact(physical_id, columns)
        if everything:
            engine.compact(physical_id, columns, everything=True)
