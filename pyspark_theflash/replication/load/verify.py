"""Compare the rows of a store with those of TiKV at one timestamp.

The keys of a table are divided into ranges at the bounds of TiKV's regions. For each range, both
sides count their rows and add up the digests of these (`tidb.codec.digest`, with the handle as the
first value), so rows may be read in any order, and memory holds a few numbers for each range. The
rows of a range that differs are read again, with their digests by handle.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.upkeep import SharedHold
from pyspark_theflash.read.plan.snapshot import ReadSnapshot
from pyspark_theflash.read.present import as_texts
from pyspark_theflash.replication.load.plan import first_handle, region_starts
from pyspark_theflash.replication.load.scan import PieceReader, record_keys
from pyspark_theflash.storage.engine.api import Handle
from pyspark_theflash.storage.mvcc.project import project, scan_column
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.command import handle_text
from pyspark_theflash.tidb.codec.digest import DIGEST_BYTES, row_digests
from pyspark_theflash.tidb.schema.model import TableInfo

HANDLES_SHOWN: Final = 5
RANGES_READ_AGAIN: Final = 10
"""The number of different ranges of a table whose rows are compared one by one."""
_PIECE_BYTES: Final = 8 << 20
_PLAN_MS: Final = 60_000
_WORDS: Final = DIGEST_BYTES // 4

Rows: TypeAlias = Iterator[tuple[PhysicalTableID, pa.Array, list[bytes]]]
"""Batches of a table's rows: physical table, handles, digests."""


@dataclass(frozen=True, slots=True)
class DifferentRange:
    """A range of a table's rows that differ; bounds that are None are open.

    The handles are some of the rows that only one side has, or that have other values; they are
    empty if the rows were not compared one by one.
    """

    table: str
    physical_id: PhysicalTableID
    start: Handle | None
    end: Handle | None
    rows_here: int
    rows_in_tikv: int
    missing: Sequence[Handle] = ()
    extra: Sequence[Handle] = ()
    changed: Sequence[Handle] = ()

    def __str__(self) -> str:
        low, high = ("" if b is None else handle_text(b) for b in (self.start, self.end))
        text = (
            f"{self.table}: the rows of physical table {self.physical_id} with handles from "
            f"{low or 'the first'} to {high or 'the last'} differ: {self.rows_here} here, "
            f"{self.rows_in_tikv} in TiKV"
        )
        parts = [("missing", self.missing), ("not in TiKV", self.extra), ("other", self.changed)]
        shown = [
            f"{name}: {', '.join(map(handle_text, handles))}" for name, handles in parts if handles
        ]
        return "; ".join([text, *shown])


class TableCheck:
    """Comparison of one table at the timestamp of a snapshot."""

    def __init__(
        self,
        snapshot: ReadSnapshot,
        client: TiKVClient,
        table: TableInfo,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """`on_rows` is called with the number of rows of each batch that was read."""
        self._snapshot, self._client, self._table = snapshot, client, table
        self._on_rows, self.rows = on_rows, 0
        tables = dict.fromkeys(table.physical_ids, table)
        self._reader = PieceReader(client, tables, snapshot.snapshot_ts, _PIECE_BYTES)
        self._columns = [scan_column(table, info) for info in table.public_columns]

    def run(self) -> list[DifferentRange]:
        """Read the table on both sides, and return the ranges that differ.

        Raises the errors of both sides' reads.
        """
        bounds = {i: self._bounds(i) for i in self._table.physical_ids}
        here, there = _Sums(bounds), _Sums(bounds)
        for batch in self._rows_here():
            here.add(*batch)
        for batch in self._rows_there():
            there.add(*batch)
        self.rows = here.total
        places = here.differences(there)
        return [
            self._described(here, there, *place, in_detail=number < RANGES_READ_AGAIN)
            for number, place in enumerate(places)
        ]

    def _bounds(self, physical_id: PhysicalTableID) -> list[Handle]:
        starts = region_starts(self._client, [physical_id], Deadline(self._client.clock, _PLAN_MS))
        handles = (first_handle(physical_id, start, self._table) for start in starts)
        bounds = {handle for handle in handles if handle is not None}
        return sorted(bounds)

    def _rows_here(self) -> Rows:
        for physical_id, handles, texts in self._snapshot.handles_and_texts(self._table):
            self._on_rows(len(handles))
            yield physical_id, handles, _digests(handles, texts)

    def _rows_there(self, only: PhysicalTableID | None = None) -> Rows:
        for physical_id in self._table.physical_ids if only is None else [only]:
            keys = record_keys(physical_id)
            start = keys.start
            while start < keys.end:
                piece = self._reader.read(start, keys.end)
                for versions in piece.versions():
                    yield self._digested(physical_id, versions.batch)
                start = piece.next

    def _digested(
        self, physical_id: PhysicalTableID, batch: pa.RecordBatch
    ) -> tuple[PhysicalTableID, pa.Array, list[bytes]]:
        stored = dict(zip(batch.schema.names, batch.columns, strict=True))
        values = project(stored, self._columns, batch.num_rows)
        handles = stored[HANDLE]
        self._on_rows(len(handles))
        texts = as_texts(values, self._table.public_columns)
        return physical_id, handles, _digests(handles, texts)

    def _described(
        self,
        here: "_Sums",
        there: "_Sums",
        physical_id: PhysicalTableID,
        number: int,
        *,
        in_detail: bool,
    ) -> DifferentRange:
        start, end = here.range_of(physical_id, number)
        counts = here.rows_of(physical_id, number), there.rows_of(physical_id, number)
        range_ = DifferentRange(self._table.full_name, physical_id, start, end, *counts)
        if not in_detail:
            return range_
        ours = here.rows_in(self._rows_here(), physical_id, number)
        theirs = there.rows_in(self._rows_there(physical_id), physical_id, number)
        return DifferentRange(
            *(range_.table, physical_id, start, end, *counts),
            missing=_some(theirs.keys() - ours.keys()),
            extra=_some(ours.keys() - theirs.keys()),
            changed=_some(k for k in ours.keys() & theirs.keys() if ours[k] != theirs[k]),
        )


@dataclass
class _Sums:
    """Numbers of rows and sums of digests by range: range n is from bound n - 1 to bound n."""

    bounds: Mapping[PhysicalTableID, Sequence[Handle]]
    total: int = 0
    _counts: dict[PhysicalTableID, npt.NDArray[np.int64]] = field(init=False)
    _sums: dict[PhysicalTableID, npt.NDArray[np.uint64]] = field(init=False)

    def __post_init__(self) -> None:
        self._counts = {i: np.zeros(len(b) + 1, np.int64) for i, b in self.bounds.items()}
        self._sums = {i: np.zeros((len(b) + 1, _WORDS), np.uint64) for i, b in self.bounds.items()}

    def add(self, physical_id: PhysicalTableID, handles: pa.Array, digests: list[bytes]) -> None:
        """Add rows."""
        numbers = self._numbers(physical_id, handles)
        words = np.frombuffer(b"".join(digests), ">u4").reshape(-1, _WORDS).astype(np.uint64)
        np.add.at(self._counts[physical_id], numbers, 1)
        np.add.at(self._sums[physical_id], numbers, words)
        self.total += len(handles)

    def differences(self, other: "_Sums") -> list[tuple[PhysicalTableID, int]]:
        """Return the ranges that differ."""
        return [
            (physical_id, int(number))
            for physical_id, counts in self._counts.items()
            for number in np.flatnonzero(
                (counts != other._counts[physical_id])
                | (self._sums[physical_id] != other._sums[physical_id]).any(axis=1)
            )
        ]

    def range_of(
        self, physical_id: PhysicalTableID, number: int
    ) -> tuple[Handle | None, Handle | None]:
        """Return the bounds of a range."""
        padded = [None, *self.bounds[physical_id], None]
        return padded[number], padded[number + 1]

    def rows_of(self, physical_id: PhysicalTableID, number: int) -> int:
        """Return the number of rows in a range."""
        return int(self._counts[physical_id][number])

    def rows_in(self, rows: Rows, physical_id: PhysicalTableID, number: int) -> dict[Handle, bytes]:
        """Return the digests of the rows in a range, by handle."""
        by_handle: dict[Handle, bytes] = {}
        for id, handles, digests in rows:
            if id == physical_id:
                for place in np.flatnonzero(self._numbers(id, handles) == number):
                    by_handle[handles[int(place)].as_py()] = digests[place]
        return by_handle

    def _numbers(self, physical_id: PhysicalTableID, handles: pa.Array) -> npt.NDArray[np.int64]:
        bounds, keys = self.bounds[physical_id], handles.to_numpy(zero_copy_only=False)
        if not len(bounds):
            return np.zeros(len(handles), np.int64)
        numbers: npt.NDArray[np.int64] = np.searchsorted(
            np.array(bounds, keys.dtype), keys, side="right"
        )
        return numbers


@contextmanager
def held(client: TiKVClient, snapshot: ReadSnapshot) -> Iterator[SharedHold]:
    """Keep TiKV from collecting versions that the snapshot needs.

    Raises the errors of `SharedHold.ensure`.
    """
    service = f"theflash-verify-{snapshot.lease.id}"
    hold = SharedHold(client.directory, service, clock=client.clock)
    with closing(hold):
        hold.ensure(snapshot.snapshot_ts)
        yield hold


def _digests(handles: pa.Array, texts: Sequence[pa.Array]) -> list[bytes]:
    is_common = pa.types.is_binary(handles.type)
    return row_digests([handles if is_common else handles.cast(pa.string()), *texts])


def _some(handles: Iterator[Handle] | set[Handle]) -> list[Handle]:
    return sorted(handles)[:HANDLES_SHOWN]
