"""Rewrite deltas published during a merge, so that they point into the merged files.

    planned      1 ◄── 2 ◄── 3                  1, 2 and 3 are to be merged into 4
    meanwhile    1 ◄── 2 ◄── 3 ◄── 5 ◄── 6      published files have higher numbers
    committed    4 ◄── 7 ◄── 8                  7 and 8 are 5 and 6 with new pointers

Files never change, so a delta that points to a replaced file is rewritten under a higher number.
All later deltas are rewritten, too, since the order of versions follows the file numbers. The rows
of a delta remain in place, so pointers to it only need its new number.

The new position of a version in a replaced file is looked up by handle. A delta points to the
newest stored version of a row, never to a delete. So no replaced file has a newer version of that
row, and a safe point cannot drop this one, since no merged version supersedes it. Hence it is the
last version of its handle in the merged files.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.errors import InternalError
from pyspark_theflash.storage.engine.magic.compaction import Write
from pyspark_theflash.storage.engine.magic.encode import FileEncoder
from pyspark_theflash.storage.engine.magic.file import (
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    DataFile,
    FileKind,
    combine_chunks,
    read_columns,
)
from pyspark_theflash.storage.engine.magic.layout import LayoutChange
from pyspark_theflash.storage.engine.magic.lookup import HandleLookup
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.partition import HOME


class Rebase:
    """Rewriter of the deltas published during one merge, whose result is `change`."""

    def __init__(self, folder: Path, change: LayoutChange, write: Write) -> None:
        self._folder, self._write = folder, write
        self._removed = np.array(sorted(f.number for f in change.replaced), np.uint64)
        replaced = {f.number for f in change.replaced}
        self._merged = [f for f in change.files if f.number not in replaced]
        self._lookup = HandleLookup(folder)
        self._seen: set[int] = set()
        self._moved: dict[int, DataFile] = {}
        self._replaced: list[DataFile] = []

    def pending(self, newer: Sequence[DataFile]) -> list[DataFile]:
        """Return the deltas among `newer` that were not passed to `add` yet."""
        return [info for info in newer if info.number not in self._seen]

    def add(self, deltas: Sequence[DataFile]) -> None:
        """Rewrite deltas where necessary; they are newer than all those added before."""
        for info in deltas:
            self._seen.add(info.number)
            if not (self._moved or info.has_previous):
                continue
            table = read_columns(self._folder, info)
            pointed_at = table.column(PREVIOUS_FILE).drop_null().to_numpy()
            if not self._moved and not np.isin(pointed_at, self._removed).any():
                continue
            encoder = FileEncoder(FileKind.DELTA)
            encoder.add(self._with_new_pointers(table))
            self._moved[info.number] = self._write(encoder, HOME)
            self._replaced.append(info)

    @property
    def change(self) -> LayoutChange:
        """The change to commit together with the merge."""
        return LayoutChange(list(self._moved.values()), self._replaced)

    def _with_new_pointers(self, table: pa.Table) -> pa.Table:
        is_absent = np.asarray(combine_chunks(table.column(PREVIOUS_FILE).is_null()))
        numbers, rows = (
            np.array(combine_chunks(table.column(name).fill_null(0)))
            for name in (PREVIOUS_FILE, PREVIOUS_ROW)
        )
        into_moved = [np.flatnonzero(~is_absent & (numbers == old)) for old in self._moved]
        into_removed = np.flatnonzero(~is_absent & np.isin(numbers, self._removed))
        for at, moved in zip(into_moved, self._moved.values(), strict=True):
            numbers[at] = moved.number
        if len(into_removed):
            handles = combine_chunks(table.column(HANDLE)).take(pa.array(into_removed))
            places = self._lookup.find(self._merged, handles)
            if not places.is_live.all():
                raise InternalError("a merge lost a version to which a newer delta points")
            numbers[into_removed], rows[into_removed] = places.files, places.rows
        for name, values in ((PREVIOUS_FILE, numbers), (PREVIOUS_ROW, rows)):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, pa.array(values, mask=is_absent))
        return table
