"""Load of the physical tables that enter a store at one timestamp, in steps.

A store may have earlier versions of their rows: those of a table that was set aside, or of a
partition that was exchanged twice. So the rows that are not in TiKV at the timestamp are deleted
then, piece by piece.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import CodecError, TheFlashError, UnsupportedError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.key_range import EncodedKeyRange, handle_bounds
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.replication.apply.rows import decode_versions, newest_places
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.replication.load.plan import STRIPES, plan_by_table
from pyspark_theflash.replication.load.process import ReaderProcesses, ReaderThread
from pyspark_theflash.replication.load.reading import (
    PiecePool,
    Reading,
    piece_bytes,
    publish_piece,
)
from pyspark_theflash.replication.load.scan import (
    ANY_COLUMN,
    ClusterAddress,
    LoadPiece,
    LoadRequest,
)
from pyspark_theflash.storage.engine.api import VersionBatch, WriterEngine
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, Op
from pyspark_theflash.storage.store.load import Stripe
from pyspark_theflash.tidb.codec.array import joined
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.codec.number import decode_int
from pyspark_theflash.tidb.schema.model import TableInfo

STEP_S: Final = 0.1
"""Time that a step waits for a piece; between two steps, the change feed is received."""
THREAD_STRIPES: Final = 4
"""So few stripes, of one region each, are read without processes."""
_PLAN_MS: Final = 60_000


class Loader(Protocol):
    """Access to the rows of a cluster at a timestamp."""

    def stripes(self, physical_ids: Sequence[PhysicalTableID]) -> list[Stripe]:
        """Divide the keys of tables into stripes of one table each."""

    def open(
        self, tables: Mapping[PhysicalTableID, TableInfo], ts: TimeStamp, stripes: int
    ) -> tuple[PiecePool, int]:
        """Return readers at a timestamp, and the number of pieces to read at the same time.

        `stripes` is the number of stripes to read.
        """

    def confirm(self, ts: TimeStamp) -> None:
        """Raise `GCBarrierLostError` if TiKV may have collected versions after `ts`."""


class ClusterLoader:
    """The `Loader` of a cluster, by processes."""

    def __init__(
        self,
        client: TiKVClient,
        cluster: ClusterAddress,
        confirm: Callable[[TimeStamp], None],
        *,
        processes: int | None = None,
        pool: Callable[[int, LoadRequest], PiecePool] = ReaderProcesses,
    ) -> None:
        self._client, self._cluster, self._pool = client, cluster, pool
        self._processes = processes or len(os.sched_getaffinity(0))
        self._confirm = confirm

    def stripes(self, physical_ids: Sequence[PhysicalTableID]) -> list[Stripe]:
        deadline = Deadline(self._client.clock, _PLAN_MS)
        return plan_by_table(self._client, physical_ids, STRIPES * self._processes, deadline)

    def open(
        self, tables: Mapping[PhysicalTableID, TableInfo], ts: TimeStamp, stripes: int
    ) -> tuple[PiecePool, int]:
        count = self._processes if stripes > THREAD_STRIPES else 1
        request = LoadRequest(self._cluster, tuple(tables.items()), ts, piece_bytes(count))
        if stripes <= THREAD_STRIPES:
            return ReaderThread(request), count + 1
        return self._pool(count, request), count + 1

    def confirm(self, ts: TimeStamp) -> None:
        self._confirm(ts)


class EntryLoad:
    """A load of physical tables at a timestamp, begun or continued. Close it at its end."""

    def __init__(
        self,
        engine: WriterEngine,
        loader: Loader,
        ts: TimeStamp,
        tables: Mapping[PhysicalTableID, TableInfo],
        stripes: Sequence[Stripe],
        clock: Clock,
    ) -> None:
        """`tables` are the physical tables, each with its definition at the timestamp."""
        self._engine, self._ts = engine, ts
        # Rows may contain columns dropped by any former owner of the physical table.
        self._tables = {i: replace(t, max_column_id=ANY_COLUMN) for i, t in tables.items()}
        self.failed: Final = dict[PhysicalTableID, TheFlashError]()
        """The tables that cannot be decoded, each with the error."""
        self._stripes = {stripe.number: stripe for stripe in stripes}
        remaining = [stripe for stripe in stripes if not stripe.is_done]
        self._pool: PiecePool | None = None
        self._reading: Reading | None = None
        if remaining:
            self._pool, most = loader.open(tables, ts, len(remaining))
            self._reading = Reading(
                self._pool, most, remaining, self._publish, clock, self._set_aside
            )

    @property
    def is_done(self) -> bool:
        """Whether all rows are in the store, except of tables that have failed."""
        return self._reading is None or self._reading.is_done

    @property
    def share(self) -> float:
        """The part of all keys that is loaded, from 0 to 1; an estimate."""
        return sum(each.share for each in self._stripes.values()) / max(len(self._stripes), 1)

    def step(self) -> None:
        """Publish what has been read; wait a little for it. Raises as `Reading.step`."""
        if self._reading is not None:
            self._reading.step(STEP_S)

    def close(self) -> None:
        """End the readers."""
        if self._pool is not None:
            self._pool.close()

    # --

    def _publish(self, stripe: Stripe, piece: LoadPiece) -> Stripe:
        left = publish_piece(self._engine, stripe, piece, self._versions(stripe, piece))
        self._stripes[stripe.number] = left
        return left

    def _set_aside(self, stripe: Stripe, error: TheFlashError) -> bool:
        if not isinstance(error, UnsupportedError | CodecError):
            return False
        self.failed.setdefault(_physical_id(stripe), error)
        return True

    def _versions(self, stripe: Stripe, piece: LoadPiece) -> Iterator[VersionBatch]:
        """Yield the rows of a piece, and deletes of the store's rows that are not among them."""
        physical_id = _physical_id(stripe)
        handles = []
        for versions in piece.versions():
            handles.append(versions.batch.column(HANDLE))
            yield versions
        stored = self._stored(physical_id, stripe.next, piece.next)
        if stored is None:
            return
        is_kept = pc.is_in(stored.handles, value_set=pa.chunked_array(handles, stored.handles.type))
        is_gone = ~is_kept.to_numpy(zero_copy_only=False) & (stored.op == Op.PUT)
        if is_gone.any():
            gone = stored.select(np.flatnonzero(is_gone))
            ts, op = (
                np.full(len(gone), self._ts, np.uint64),
                np.full(len(gone), Op.DELETE, np.uint8),
            )
            deletes = replace(gone, commit_ts=ts, start_ts=ts, op=op)
            table = self._tables[physical_id]
            yield VersionBatch(physical_id, decode_versions(physical_id, deletes, table))

    def _stored(self, physical_id: PhysicalTableID, start: RawKey, end: RawKey) -> Versions | None:
        """Return the newest version of each row that the store has between two keys, by handle."""
        keys = EncodedKeyRange(encode_bytes(start), encode_bytes(end))
        table = self._tables[physical_id]
        bounds = handle_bounds(physical_id, keys, is_common=table.is_common_handle)
        if bounds is None:
            return None
        batches = list(self._engine.keys(self._engine.read([]), physical_id, *bounds))
        if not sum(batch.num_rows for batch in batches):
            return None
        stored = pa.Table.from_batches(batches)
        count, handles = stored.num_rows, joined(stored.column(HANDLE).chunks)
        commit_ts = stored.column(COMMIT_TS).to_numpy()
        versions = Versions(
            np.full(count, physical_id, np.int64),
            handles,
            commit_ts,
            commit_ts,
            stored.column(OP).to_numpy(),
            pa.repeat(pa.scalar(b""), count),
        )
        return versions.select(newest_places(versions))


def _physical_id(stripe: Stripe) -> PhysicalTableID:
    return PhysicalTableID(decode_int(stripe.start, 1))
