"""Folding: many small files of a physical table become one stable file, sorted by handle.

Nothing is dropped, every version stays readable at its timestamp; what was spread over files (which
version is superseded by which) is computed anew from the sorted whole, so the stable file needs no
pointers into others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.engine.magic.file import PREVIOUS_FILE, PREVIOUS_ROW, DataFile, read_columns
from pyspark_theflash.mvcc.project import ScanColumn, project, stored_names
from pyspark_theflash.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    START_TS,
    SUPERSEDED_TS,
    column_name,
)
from pyspark_theflash.mvcc.visibility import sort_order, superseded_within

FEWEST_DELTAS: Final = 8
MOST_DELTAS: Final = 64
LEAST_SHARE: Final = 0.25
"""At 25% each row is rewritten about four times over a table's growth; at 1% a hundred times."""


def is_worth_folding(files: Sequence[DataFile]) -> bool:
    """Whether the files to open cost reads more than one rewrite costs the writer."""
    deltas = [f for f in files if not f.is_stable]
    share = sum(f.rows for f in deltas) / max(sum(f.rows for f in files), 1)
    return len(deltas) >= MOST_DELTAS or (len(deltas) >= FEWEST_DELTAS and share >= LEAST_SHARE)


def fold_files(folder: Path, files: Sequence[DataFile], columns: Sequence[ScanColumn]) -> pa.Table:
    """All versions of these files as one sorted table with the system columns of a data file.

    Holds all of it in memory: about three times the rows' size in Arrow.
    """
    system = [HANDLE, COMMIT_TS, START_TS, OP]
    tables = [_read(folder, f, system, columns) for f in files]
    table = pa.concat_tables(tables).combine_chunks()
    order = sort_order(
        table.column(HANDLE).combine_chunks(), table.column(COMMIT_TS).combine_chunks()
    )
    table = table.take(pa.array(order)).combine_chunks()
    handles = table.column(HANDLE).combine_chunks()
    superseded = superseded_within(handles, np.asarray(table.column(COMMIT_TS).combine_chunks()))
    table = table.append_column(SUPERSEDED_TS, pa.array(superseded))
    table = table.append_column(PREVIOUS_FILE, pa.nulls(len(table), pa.uint64()))
    return table.append_column(PREVIOUS_ROW, pa.nulls(len(table), pa.uint32()))


def _read(
    folder: Path, info: DataFile, system: list[str], columns: Sequence[ScanColumn]
) -> pa.Table:
    stored = read_columns(folder, info, [*system, *stored_names(columns)]).combine_chunks()
    found = {name: stored.column(name).combine_chunks() for name in stored.column_names}
    names = [column_name(c.id) for c in columns]
    arrays = [*(found[name] for name in system), *project(found, columns, stored.num_rows)]
    return pa.table(dict(zip([*system, *names], arrays, strict=True)))
