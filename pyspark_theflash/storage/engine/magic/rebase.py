"""What is published while older files are merged, made to point into the merged ones.

    planned      1 ◄── 2 ◄── 3                  1, 2 and 3 are to be merged into 4; whatever is
    meanwhile    1 ◄── 2 ◄── 3 ◄── 5 ◄── 6      published has higher numbers, and points at them
    committed    4 ◄── 7 ◄── 8                  7 and 8 are 5 and 6 with other pointers

Files never change, so a delta that points at a merged file is written anew, under a number above
its own, and so are all deltas after it: whoever looks for the newest version of a row goes by the
numbers. A delta's rows keep their places, so what points at it needs its new number only.

Where a row stands in the merged files is found by its handle. A delta points at the newest version
that was stored of a row, and never at a delete. What is merged had nothing newer, or that would be
pointed at, and no safe point drops it, since nothing merged supersedes it. So it is the last of its
handle in the merged files.
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
    from_any_copy,
    open_file,
    read_row_group,
)
from pyspark_theflash.storage.engine.magic.layout import LayoutChange
from pyspark_theflash.storage.engine.magic.lookup import HandleLookup
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.partition import HOME


class Rebase:
    """Deltas that are published beside one merge, `change`, taken in as they come."""

    def __init__(self, folder: Path, change: LayoutChange, write: Write) -> None:
        self._folder, self._write = folder, write
        self._gone = np.array(sorted(f.number for f in change.replaced), np.uint64)
        replaced = {f.number for f in change.replaced}
        self._merged = [f for f in change.files if f.number not in replaced]
        self._lookup = HandleLookup(folder)
        self._seen: set[int] = set()
        self._moved: dict[int, DataFile] = {}
        self._replaced: list[DataFile] = []

    def left(self, newer: Sequence[DataFile]) -> list[DataFile]:
        """Those of the deltas published so far that were not taken in yet."""
        return [info for info in newer if info.number not in self._seen]

    def take(self, deltas: Sequence[DataFile]) -> None:
        """Write anew what needs it of deltas that were published after all before."""
        for info in deltas:
            self._seen.add(info.number)
            if not (self._moved or info.has_previous):
                continue
            table = self._read(info)
            pointed_at = table.column(PREVIOUS_FILE).drop_null().to_numpy()
            if not self._moved and not np.isin(pointed_at, self._gone).any():
                continue
            encoder = FileEncoder(FileKind.DELTA)
            encoder.add(self._pointed_anew(table))
            self._moved[info.number] = self._write(encoder, HOME)
            self._replaced.append(info)

    @property
    def change(self) -> LayoutChange:
        """What the commit of the merge does besides."""
        return LayoutChange(list(self._moved.values()), self._replaced)

    def _read(self, info: DataFile) -> pa.Table:
        def read(one: DataFile) -> pa.Table:
            with open_file(self._folder, one) as file:
                names, groups = file.schema_arrow.names, range(file.num_row_groups)
                return pa.concat_tables([read_row_group(file, group, names) for group in groups])

        return from_any_copy(info, read)

    def _pointed_anew(self, table: pa.Table) -> pa.Table:
        is_absent = np.asarray(combine_chunks(table.column(PREVIOUS_FILE).is_null()))
        numbers, rows = (
            np.array(combine_chunks(table.column(name).fill_null(0)))
            for name in (PREVIOUS_FILE, PREVIOUS_ROW)
        )
        into_moved = [np.flatnonzero(~is_absent & (numbers == old)) for old in self._moved]
        into_gone = np.flatnonzero(~is_absent & np.isin(numbers, self._gone))
        for at, moved in zip(into_moved, self._moved.values(), strict=True):
            numbers[at] = moved.number
        if len(into_gone):
            handles = combine_chunks(table.column(HANDLE)).take(pa.array(into_gone))
            places = self._lookup.find(self._merged, handles)
            if not places.found.all():
                raise InternalError("a version that a newer one supersedes was lost in a merge")
            numbers[into_gone], rows[into_gone] = places.files, places.rows
        for name, values in ((PREVIOUS_FILE, numbers), (PREVIOUS_ROW, rows)):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, pa.array(values, mask=is_absent))
        return table
