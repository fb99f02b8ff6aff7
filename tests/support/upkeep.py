"""The magic engine with the plainest upkeep there is: whole tables, rewritten whole."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pyspark_theflash.engine.magic.engine import (
    ORDINAL_BITS,
    RETIRED_KIND,
    MagicEngine,
    MagicReader,
    _encoded,
    _files_of,
)
from pyspark_theflash.engine.magic.file import FILE_KIND, DataFile
from pyspark_theflash.engine.magic.fold import fold_files
from pyspark_theflash.engine.upkeep import CompactionReport, RegionStats
from pyspark_theflash.mvcc.project import ScanColumn
from pyspark_theflash.mvcc.version import COMMIT_TS, OP, SUPERSEDED_TS, Op
from pyspark_theflash.store.manifest import Change, Record, View
from pyspark_theflash.types import Generation, PhysicalTableID, RegionID, TimeStamp


class UpkeepReader(MagicReader):
    """Tells of one region a physical table."""

    def regions(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionStats]:
        files = [DataFile.from_json(body) for body in _files_of(view, physical_id)]
        if not files:
            return []
        rows, size = sum(f.rows for f in files), sum(f.size_bytes for f in files)
        deltas = sum(not f.is_stable for f in files)
        return [RegionStats(RegionID(1), None, None, len(files) - deltas, rows, size, deltas)]


class UpkeepEngine(UpkeepReader, MagicEngine):
    """Compacts always, and drops by the rule of `engine.upkeep`."""

    def compact(
        self,
        physical_id: PhysicalTableID,
        columns: Sequence[ScanColumn],
        *,
        safe_point: TimeStamp | None = None,
        everything: bool = False,
    ) -> CompactionReport:
        view = self.read([])
        files = [DataFile.from_json(body) for body in _files_of(view, physical_id)]
        table = fold_files(self._data, files, columns)
        kept = table if safe_point is None else table.filter(_needed(table, safe_point))
        number = (view.generation + 1) << ORDINAL_BITS
        made = [self._write(_encoded(kept, physical_id, number, is_stable=True))] if kept else []
        self._replace(view, files, made)
        return CompactionReport(
            len(table), len(kept), len(table) - len(kept), len(files), len(made), 0
        )

    def purge(self, physical_ids: Sequence[PhysicalTableID]) -> Generation:
        view = self.read([])
        files = [DataFile.from_json(b) for i in physical_ids for b in _files_of(view, i)]
        return self._replace(view, files, [])

    def _replace(self, view: View, old: Sequence[DataFile], new: Sequence[DataFile]) -> Generation:
        retired = [Record(RETIRED_KIND, f.path, str(view.generation).encode()) for f in old]
        deletes = [(FILE_KIND, f.key) for f in old]
        puts = [*(f.to_record() for f in new), *retired]
        generation = self._commit(new, Change(puts, deletes))
        self._indexes.clear()
        self._remove_retired()
        return generation


def _needed(table: pa.Table, safe_point: TimeStamp) -> pa.Array:
    """Superseded at or below the safe point, or a delete there: nobody sees it any more."""
    limit = np.uint64(safe_point)
    is_superseded = np.asarray(table.column(SUPERSEDED_TS)) <= limit
    is_old = np.asarray(table.column(COMMIT_TS)) <= limit
    is_delete = np.asarray(table.column(OP)) == Op.DELETE
    return pa.array(~(is_superseded | (is_old & is_delete)))
