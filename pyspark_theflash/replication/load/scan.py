"""Read rows from TiKV at the timestamp of a first load.

A process (`process.py`) reads one piece at a time: the rows from a key on, until they have the size
of a piece. It decodes them to version batches and returns these as Arrow streams, with the key to
continue at.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import CodecError, TiKVRefusedError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.replication.apply.rows import decode_versions
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.tidb.codec.array import binary, take, variable_width
from pyspark_theflash.tidb.codec.key import HANDLE_AT, RawKey, encode_record_key
from pyspark_theflash.tidb.schema.model import TableInfo

PIECE_MS: Final = 60_000
"""The time to read one piece, without an answer for which it fails."""
MOST_TABLES: Final = 128
"""The number of tables in a piece; each takes a file of its own."""
_FIRST_KEYS, _MOST_KEYS = 256, 8192
_PAGE_BYTES: Final = 2 << 20
_INT_HANDLE_BYTES: Final = 8
_TOO_LARGE: Final = "RESOURCE_EXHAUSTED"
ANY_COLUMN: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """Addresses, certificates and lock policy of a cluster; can be pickled."""

    pd: tuple[str, ...]
    tls: TlsFiles | None = None
    policy: LockPolicy = LockPolicy.WAIT


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """Request to a process: physical tables to read at a timestamp, in pieces of a size."""

    cluster: ClusterAddress
    tables: tuple[tuple[PhysicalTableID, TableInfo], ...]
    ts: TimeStamp
    piece_bytes: int


@dataclass(frozen=True, slots=True)
class LoadPiece:
    """Rows of a stripe: version batches as Arrow streams, in the order of their physical tables.

    `next` is the key after the rows; `key_bytes` is the size of the keys and values read.
    """

    batches: tuple[tuple[PhysicalTableID, pa.Buffer], ...]
    next: RawKey
    rows: int
    size_bytes: int

    def versions(self) -> Iterator[VersionBatch]:
        """Yield the version batches."""
        for physical_id, stream in self.batches:
            with pa.ipc.open_stream(stream) as reader:
                yield VersionBatch(physical_id, reader.read_next_batch())


class PieceReader:
    """Reads pieces of the rows of tables at one timestamp."""

    def __init__(
        self,
        client: TiKVClient,
        tables: Mapping[PhysicalTableID, TableInfo],
        ts: TimeStamp,
        piece_bytes: int,
    ) -> None:
        self._client, self._ts, self._piece_bytes = client, ts, piece_bytes
        # Rows may contain columns dropped by any former owner of the physical table.
        self._tables = {i: replace(t, max_column_id=ANY_COLUMN) for i, t in tables.items()}
        self._ids = sorted(tables)
        self._limit = _FIRST_KEYS

    def read(self, start: RawKey, end: RawKey) -> LoadPiece:
        """Read rows from `start` on, until they have the size of a piece or `end` is reached.

        Raises:
            CodecError: A key or a row is malformed.
            The errors of `TiKVClient`: Nothing was read.
        """
        batches: list[tuple[PhysicalTableID, pa.Buffer]] = []
        rows = size = 0
        for count, (physical_id, keys) in enumerate(self.ranges(start, end)):
            if size >= self._piece_bytes or count == MOST_TABLES:
                return LoadPiece(tuple(batches), keys.start, rows, size)
            versions, used, rest = self._read_table(physical_id, keys, self._piece_bytes - size)
            size += used
            if versions is not None:
                rows += len(versions)
                batch = decode_versions(physical_id, versions, self._tables[physical_id])
                batches.append((physical_id, stream(batch)))
            if rest is not None:
                return LoadPiece(tuple(batches), rest.start, rows, size)
        return LoadPiece(tuple(batches), end, rows, size)

    def ranges(self, start: RawKey, end: RawKey) -> Iterator[tuple[PhysicalTableID, RawKeyRange]]:
        """Yield the tables that have keys between two keys, each with the range of these keys."""
        at = bisect_left(self._ids, start, key=lambda i: record_keys(i).end)
        for physical_id in self._ids[at:]:
            keys = record_keys(physical_id).clip(start, end)
            if keys is not None:
                yield physical_id, keys
            elif record_keys(physical_id).start >= end:
                return

    def _read_table(
        self, physical_id: PhysicalTableID, keys: RawKeyRange, most_bytes: int
    ) -> tuple[Versions | None, int, RawKeyRange | None]:
        """Return the rows of a range, their size, and the remaining range."""
        pages: list[tuple[pa.Array, pa.Array]] = []
        size, left = 0, keys.rest(keys.start)
        while left is not None and size < most_bytes:
            page_keys, page_values, left = self._page(left)
            if len(page_keys):
                pages.append((page_keys, page_values))
                page_bytes = page_keys.nbytes + page_values.nbytes
                size += page_bytes
                fitting = _PAGE_BYTES * len(page_keys) // page_bytes
                self._limit = max(1, min(fitting, 4 * self._limit, _MOST_KEYS))
        if not pages:
            return None, size, left
        all_keys, values = (pa.concat_arrays(each) for each in zip(*pages, strict=True))
        return self._versions(physical_id, all_keys, values), size, left

    def _page(self, keys: RawKeyRange) -> tuple[pa.Array, pa.Array, RawKeyRange | None]:
        while True:
            deadline = Deadline(self._client.clock, PIECE_MS)
            try:
                page, left = self._client.scan_page(keys, self._ts, self._limit, deadline)
            except TiKVRefusedError as error:
                if _TOO_LARGE not in error.reason or self._limit == 1:
                    raise
                self._limit = max(1, self._limit // 8)
            else:
                return page.keys, page.values, left

    def _versions(self, physical_id: PhysicalTableID, keys: pa.Array, values: pa.Array) -> Versions:
        count = len(keys)
        ts = np.full(count, self._ts, np.uint64)
        return Versions(
            np.full(count, physical_id, np.int64),
            decode_handles(keys, is_common=self._tables[physical_id].is_common_handle),
            ts,
            ts,
            np.full(count, Op.PUT, np.uint8),
            values,
        )


def record_keys(physical_id: PhysicalTableID) -> RawKeyRange:
    """Return the range of the raw keys of a physical table's rows."""
    return RawKeyRange.of_prefix(encode_record_key(physical_id, b""))


def decode_handles(keys: pa.Array, *, is_common: bool) -> pa.Array:
    """Return the handles in raw record keys of one table. Raises `CodecError`."""
    data, bounds = variable_width(keys)
    if is_common:
        # Every second value is a handle; the others are the bytes before it.
        parts = np.empty(2 * len(keys) + 1, np.int64)
        parts[::2], parts[1::2] = bounds, bounds[:-1] + HANDLE_AT
        return take(binary(data, parts), np.arange(1, 2 * len(keys), 2))
    width = HANDLE_AT + _INT_HANDLE_BYTES
    if (np.diff(bounds) != width).any():
        raise CodecError("record key", "a handle of another type than the table's")
    bits = data[bounds[0] : bounds[-1]].reshape(-1, width)[:, HANDLE_AT:]
    numbers = np.ascontiguousarray(bits).view(">u8").reshape(-1).astype(np.uint64)
    return pa.array((numbers ^ np.uint64(1 << 63)).view(np.int64))


def stream(batch: pa.RecordBatch) -> pa.Buffer:
    """Encode a batch as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


@contextmanager
def opened_reader(request: LoadRequest) -> Iterator[PieceReader]:
    """Connect to a cluster to read pieces."""
    clock, cluster = SystemClock(), request.cluster
    with (
        PDClient(cluster.pd, cluster.tls, clock=clock) as pd,
        TiKVClient(pd, cluster.tls, clock=clock, policy=cluster.policy) as client,
    ):
        yield PieceReader(client, dict(request.tables), request.ts, request.piece_bytes)
