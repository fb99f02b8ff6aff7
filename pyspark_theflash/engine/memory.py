"""The reference engine: the shortest code that is right.

Versions are Python tuples in a list; a scan applies the rule of `mvcc.visibility.visible_rows` to
all of them. It keeps nothing on disk. Tests believe it; the other engines are compared with it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pyspark_theflash.codec.time import is_stored_time, stored_numbers
from pyspark_theflash.engine.api import Publication, RegionScan
from pyspark_theflash.errors import CorruptionError, invariant
from pyspark_theflash.mvcc.project import ScanColumn, batch_of
from pyspark_theflash.mvcc.version import COMMIT_TS, HANDLE, OP, Op, column_name
from pyspark_theflash.mvcc.visibility import visible_rows
from pyspark_theflash.store.manifest import View
from pyspark_theflash.types import Generation, PhysicalTableID, RegionID, TimeStamp

Row = dict[str, Any]


class MemoryEngine:
    """See the module."""

    def __init__(self) -> None:
        self._generation = Generation(0)
        self._records: dict[str, dict[str, bytes]] = {}
        self._versions: dict[PhysicalTableID, list[tuple[Any, TimeStamp, Op, Row]]] = {}
        self._handle_types: dict[PhysicalTableID, pa.DataType] = {}

    def read(self, kinds: Sequence[str]) -> View:
        records = {kind: dict(sorted(self._records.get(kind, {}).items())) for kind in kinds}
        return View(self._generation, records)

    def publish(self, publication: Publication) -> Generation:
        for kind, key in publication.change.deletes:
            missing = key not in self._records.get(kind, {})
            invariant(not missing, f"no record {kind} {key} to delete")
        for versions in publication.versions:
            rows = self._versions.setdefault(versions.physical_id, [])
            self._handle_types[versions.physical_id] = versions.batch.schema.field(HANDLE).type
            for row in _as_python(versions.batch):
                rows.append((row[HANDLE], TimeStamp(row[COMMIT_TS]), Op(row[OP]), row))
        for kind, key in publication.change.deletes:
            del self._records[kind][key]
        for record in publication.change.puts:
            self._records.setdefault(record.kind, {})[record.key] = record.body
        self._generation = Generation(self._generation + 1)
        return self._generation

    def fold(self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]) -> None:
        """Nothing to do: one form is all there is."""

    def plan(self, view: View, physical_id: PhysicalTableID) -> Sequence[RegionScan]:
        known = physical_id in self._versions
        return [RegionScan(physical_id, RegionID(1), ())] if known else []

    def scan(
        self,
        region: RegionScan,
        columns: Sequence[ScanColumn],
        snapshot_ts: TimeStamp,
        *,
        with_handle: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        visible = visible_rows(self._versions[region.physical_id], snapshot_ts)
        arrays = [_column(list(visible.values()), column) for column in columns]
        names = [column_name(column.id) for column in columns]
        if with_handle:
            arrays.insert(0, pa.array(list(visible), self._handle_types[region.physical_id]))
            names.insert(0, HANDLE)
        yield batch_of(names, arrays, len(visible))

    def check(self, view: View) -> Iterator[CorruptionError]:
        return iter(())

    def close(self) -> None:
        self._versions.clear()


def _as_python(batch: pa.RecordBatch) -> list[Row]:
    """Rows; times as the numbers that the store has, of which Python's own lack many."""
    columns = [stored_numbers(c) if is_stored_time(c.type) else c for c in batch.columns]
    rows: list[Row] = pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
    return rows


def _column(rows: list[Row], column: ScanColumn) -> pa.Array:
    name, tp = column_name(column.id), column.type
    absent = column.absent_value
    if not is_stored_time(tp):
        return pa.array([row.get(name, absent.as_py()) for row in rows], tp)
    number = stored_numbers(pa.array([absent], tp))
    numbers = [row.get(name, number[0].as_py()) for row in rows]
    return pa.array(numbers, number.type).view(tp)
