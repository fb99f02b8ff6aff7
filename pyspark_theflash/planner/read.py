"""Running one task of a plan, on whatever machine and in whatever process it landed."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pyspark_theflash.clock import Clock, SystemClock
from pyspark_theflash.engine import registry
from pyspark_theflash.errors import StoreMismatchError, StoreNotFoundError
from pyspark_theflash.fs import FileSystem, LocalFileSystem
from pyspark_theflash.mvcc.project import batch_of
from pyspark_theflash.mvcc.version import HANDLE, column_name
from pyspark_theflash.planner.scan_plan import ScanTask
from pyspark_theflash.schema.model import ROWID_NAME
from pyspark_theflash.store.folder import IDENTITY_KIND, StoreIdentity, open_manifest
from pyspark_theflash.store.lease import LeaseTable


def read_task(
    task: ScanTask, *, fs: FileSystem | None = None, clock: Clock | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a task, in bounded batches whose columns are `task.names`.

    Raises:
        StoreMismatchError: the store at the task's path is not the one it was planned on.
        LeaseExpiredError: the read latch has run out, so files of the plan may be gone.
        CorruptionError: stored data fails its checksum.
    """
    fs, clock = fs or LocalFileSystem(), clock or SystemClock()
    path = Path(task.store_path)
    identity = _claim(task, path, fs, clock)
    engine = registry.open_reader(path, identity, fs, clock)
    try:
        with_handle = ROWID_NAME in task.names
        batches = engine.scan(task.region, task.columns, task.snapshot_ts, with_handle=with_handle)
        for batch in batches:
            yield _named(batch, task)
    finally:
        engine.close()


def _claim(task: ScanTask, path: Path, fs: FileSystem, clock: Clock) -> StoreIdentity:
    """Check that this is the planned store, and renew the latch that keeps its files."""
    try:
        manifest = open_manifest(path, fs)
    except StoreNotFoundError as error:
        raise StoreMismatchError(
            task.store_path,
            "there is no store here; an embedded store is read on the machine that holds it",
        ) from error
    try:
        identity = StoreIdentity.of(manifest.read([IDENTITY_KIND]))
        if identity.store_id != task.store_id:
            raise StoreMismatchError(task.store_path, "it is another store")
        LeaseTable(manifest, clock).renew(task.lease)
    finally:
        manifest.close()
    return identity


def _named(batch: pa.RecordBatch, task: ScanTask) -> pa.RecordBatch:
    """The batch with the columns the user knows, in the order asked for."""
    stored = iter(column_name(column.id) for column in task.columns)
    sources = [HANDLE if name == ROWID_NAME else next(stored) for name in task.names]
    return batch_of(task.names, [batch.column(source) for source in sources], batch.num_rows)
