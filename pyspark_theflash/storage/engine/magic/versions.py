"""All versions of a physical table in the order of their handles, to copy them to another store.

The files of a region, and the recent files of the table, are merged piece by piece, as a compaction
does (`storage.engine.magic.merge`). Regions below the first handle are not read.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import pyarrow as pa

from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.storage.engine.magic.file import combine_chunks
from pyspark_theflash.storage.engine.magic.handles import first_from
from pyspark_theflash.storage.engine.magic.layout import Layout
from pyspark_theflash.storage.engine.magic.merge import Cursor, in_order, sample_of
from pyspark_theflash.storage.engine.magic.region import is_below
from pyspark_theflash.storage.mvcc.project import ScanColumn
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    START_TS,
    absence,
    column_name,
)

PIECE_BYTES: Final = 32 << 20
_BATCH_ROWS: Final = 1 << 16
_SYSTEM: Final = (HANDLE, COMMIT_TS, START_TS, OP)


def sorted_versions(
    folder: Path, layout: Layout, columns: Sequence[ScanColumn], start: Handle | None
) -> Iterator[pa.RecordBatch]:
    """Yield the versions of rows from `start` on; see `EngineReader.versions`."""
    recent = [Cursor(folder, info, columns) for info in layout.deltas]
    sample = sample_of(folder, layout.deltas)
    names = [*_SYSTEM, *_copied_names(columns)]
    size_bytes = sum(info.data_bytes for info in layout.files)
    row_bytes = size_bytes // max(1, sum(info.rows for info in layout.files)) + 1
    for region, files in layout.by_region():
        if start is not None and region.end is not None and not is_below(start, region.end):
            continue
        for cursor in recent if region.start is not None else ():
            cursor.take_below(region.start)
        cursors = [*(Cursor(folder, info, columns) for info in files), *recent]
        within = sample.plus(sample_of(folder, files))
        pieces = within.rows_in(region) * row_bytes // PIECE_BYTES + 1
        for _, end in pairwise([region.start, *within.cuts(region, pieces), region.end]):
            tables = [t.select(names) for cursor in cursors for t in cursor.take_below(end)]
            if sum(map(len, tables)):
                piece = in_order(tables)
                first = first_from(combine_chunks(piece.column(HANDLE)), start)
                yield from piece.slice(first).to_batches(_BATCH_ROWS)


def _copied_names(columns: Sequence[ScanColumn]) -> list[str]:
    return [column_name(id) for c in columns for id in (c.id, absence(c.id))]
