"""What a batch of new versions supersedes: the columns that make it a data file."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.storage.engine.magic.file import DataFile, with_ends
from pyspark_theflash.storage.engine.magic.lookup import HandleLookup
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE
from pyspark_theflash.storage.mvcc.visibility import same_as_next, superseded_within


def delta_table(
    versions: VersionBatch, files: Iterable[DataFile], lookup: HandleLookup
) -> pa.Table:
    """The versions with their ends, and where the first of each row supersedes one of `files`."""
    batch = versions.batch
    handles = batch.column(HANDLE)
    superseded_ts = superseded_within(handles, batch.column(COMMIT_TS).to_numpy())
    again = same_as_next(handles) if batch.num_rows > 1 else np.zeros(0, np.bool_)
    firsts = np.flatnonzero(np.concatenate([[True], ~again]))
    distinct = handles if len(firsts) == batch.num_rows else handles.take(pa.array(firsts))
    places = lookup.find(files, distinct)
    previous = firsts[places.found]
    absent = np.ones(batch.num_rows, np.bool_)
    absent[previous] = False
    numbers, rows = np.zeros(batch.num_rows, np.uint64), np.zeros(batch.num_rows, np.uint32)
    numbers[previous], rows[previous] = places.files[places.found], places.rows[places.found]
    return with_ends(
        pa.Table.from_batches([batch]),
        superseded_ts,
        pa.array(numbers, mask=absent),
        pa.array(rows, mask=absent),
    )
