"""Add the system columns of data files to a batch of new versions."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.storage.engine.magic.file import DataFile, with_stored_columns
from pyspark_theflash.storage.engine.magic.lookup import HandleLookup
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE
from pyspark_theflash.storage.mvcc.visibility import same_as_next, superseded_within


def delta_table(
    versions: VersionBatch, files: Iterable[DataFile], lookup: HandleLookup
) -> pa.Table:
    """Add `_superseded_ts`, and pointers to the versions in `files` that are superseded."""
    batch = versions.batch
    handles = batch.column(HANDLE)
    superseded_ts = superseded_within(handles, batch.column(COMMIT_TS).to_numpy())
    is_repeated = same_as_next(handles) if batch.num_rows > 1 else np.zeros(0, np.bool_)
    firsts = np.flatnonzero(np.concatenate([[True], ~is_repeated]))
    distinct = handles if len(firsts) == batch.num_rows else handles.take(pa.array(firsts))
    places = lookup.find(files, distinct)
    previous = firsts[places.is_live]
    no_previous = np.ones(batch.num_rows, np.bool_)
    no_previous[previous] = False
    numbers, rows = np.zeros(batch.num_rows, np.uint64), np.zeros(batch.num_rows, np.uint32)
    numbers[previous], rows[previous] = places.files[places.is_live], places.rows[places.is_live]
    return with_stored_columns(
        pa.Table.from_batches([batch]),
        superseded_ts,
        pa.array(numbers, mask=no_previous),
        pa.array(rows, mask=no_previous),
    )
