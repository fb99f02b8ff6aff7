"""Buffer of committed changes that were received and not consumed yet.

They are chunks of columns, and are written to a temporary file if they exceed a budget: the
frontier may be far behind, and the scan of a region may send more than fits into memory. Each poll
adds a chunk, joined with smaller ones before it, since every chunk is searched when a table is
unsubscribed or changes are taken. Each row carries its owner, the number of the request that
received it: when a request ends, its rows above its resolved_ts are discarded, because the next
request sends them again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.replication.apply.versions import Versions, concat
from pyspark_theflash.replication.cdc.change_feed import MetaChange, Taken
from pyspark_theflash.replication.cdc.matcher import CommittedRows
from pyspark_theflash.replication.cdc.txn_log import Row, TxnLog
from pyspark_theflash.replication.cdc.wire import DELETE, PUT
from pyspark_theflash.replication.pairing.spill import Spill, SpilledPayload
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.tidb.codec.array import variable_width
from pyspark_theflash.tidb.codec.key import (
    HANDLE_AT,
    RawKey,
    decode_record_key,
    encode_record_key,
)
from pyspark_theflash.tidb.codec.number import decode_int

BUDGET_BYTES: Final = 128 << 20
LARGE_CHUNK_BYTES: Final = 16 << 20
"""Keys and values of a large transaction's chunk."""
JOINED_BYTES: Final = 16 << 20
"""The largest chunk made of smaller ones."""
_INT_KEY_BYTES: Final = HANDLE_AT + 8
_META: Final = b"m"
_MAX_ID: Final = (1 << 63) - 1
_SIGN: Final = np.uint64(1 << 63)
_MARKS: Final = ((0, ord("t")), (HANDLE_AT - 2, ord("_")), (HANDLE_AT - 1, ord("r")))
"""Bytes of every record key, with their offsets."""

Owners = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Chunk:
    versions: Versions
    owners: Owners

    def select(self, mask: Mask) -> "_Chunk | None":
        """Return the rows of a mask; None if there are none."""
        if mask.all():
            return self
        chosen = np.flatnonzero(mask)
        if not len(chosen):
            return None
        return _Chunk(self.versions.select(chosen), self.owners[chosen])

    def without(self, ended: Mapping[int, TimeStamp]) -> "_Chunk | None":
        """Remove the rows of ended requests above their resolved_ts."""
        owners = np.fromiter(ended.keys(), np.int64, len(ended))
        limits = np.fromiter(ended.values(), np.uint64, len(ended))
        order = np.argsort(owners)
        owners, limits = owners[order], limits[order]
        at = np.minimum(np.searchsorted(owners, self.owners), len(owners) - 1)
        is_gone = (owners[at] == self.owners) & (self.versions.commit_ts > limits[at])
        return self.select(~is_gone)

    def outside(self, span: RawKeyRange) -> "_Chunk | None":
        """Remove the rows of a span."""
        first, last = _table_at(span.start, -1), _table_at(span.end, _MAX_ID)
        table_id = self.versions.table_id
        near = np.flatnonzero((table_id >= first) & (table_id <= last))
        if not len(near):
            return self
        ids, handles = table_id[near].tolist(), self.versions.handles.take(pa.array(near))
        keys = map(encode_record_key, map(PhysicalTableID, ids), handles.to_pylist())
        is_kept = np.ones(len(table_id), np.bool_)
        is_kept[near] = np.fromiter((key not in span for key in keys), np.bool_, len(near))
        return self.select(is_kept)


@dataclass(slots=True)
class _SpilledChunk:
    """A chunk in the file. Rows at or below `taken_ts` have been taken."""

    payload: SpilledPayload
    oldest_ts: int
    newest_ts: int
    taken_ts: int = 0
    ended: dict[int, TimeStamp] = field(default_factory=dict)
    removed: list[RawKeyRange] = field(default_factory=list)

    def read(self, up_to: int) -> _Chunk | None:
        """Read the rows up to a timestamp that have not been taken."""
        batch = pa.ipc.open_stream(self.payload.read()).read_next_batch()
        ids, handles, commit_ts, start_ts, op, values, owners = batch.columns
        numbers = [each.to_numpy() for each in (ids, commit_ts, start_ts, op, owners)]
        versions = Versions(numbers[0], handles, numbers[1], numbers[2], numbers[3], values)
        mask = (numbers[1] > self.taken_ts) & (numbers[1] <= up_to)
        chunk = _Chunk(versions, numbers[4]).select(mask)
        if chunk is not None and self.ended:
            chunk = chunk.without(self.ended)
        for span in self.removed:
            chunk = None if chunk is None else chunk.outside(span)
        return chunk


@dataclass(slots=True)
class _Log:
    """A large transaction."""

    log: TxnLog
    removed: list[RawKeyRange] = field(default_factory=list)

    def read(self) -> Iterator[Versions]:
        for rows in self.log.parts():
            kept = [row for row in rows if not any(RawKey(row[0]) in span for span in self.removed)]
            # Chunks of one part do not overlap, so a merge of their files reads one at a time.
            kept.sort(reverse=True)
            while kept:
                keys, values, ops = (list(column) for column in zip(*_popped(kept), strict=True))
                commit_ts: list[int] = [self.log.commit_ts] * len(keys)
                start_ts: list[int] = [self.log.start_ts] * len(keys)
                columns = CommittedRows(keys, values, start_ts, commit_ts, ops)
                for versions, _ in _versions_of(columns, np.arange(len(keys))):
                    yield versions


@dataclass(frozen=True, slots=True)
class _Meta:
    change: MetaChange
    owner: int


class ChangeBuffer:
    """Committed changes by commit_ts. `size_bytes` is the memory of the rows."""

    def __init__(self, spill: Spill, budget_bytes: int = BUDGET_BYTES) -> None:
        self._spill, self._budget_bytes = spill, budget_bytes
        self._chunks: list[_Chunk] = []
        self._spilled: list[_SpilledChunk] = []
        self._logs: list[_Log] = []
        self._meta: list[_Meta] = []
        self.size_bytes = 0

    def add(self, rows: CommittedRows, owners: Sequence[int], counts: Sequence[int]) -> None:
        """Add rows. `owners` are numbers of requests, `counts` their numbers of rows, in order.

        Raises:
            CodecError: A key is neither a record key nor a meta key.
            StoreFullError, EngineError: The file could not be written.
        """
        self._logs += map(_Log, rows.logs)
        if not rows.keys:
            return
        each_owner = np.repeat(np.array(owners, np.int64), np.array(counts, np.int64))
        is_meta = np.array([key[:1] == _META for key in rows.keys])
        for at in np.flatnonzero(is_meta).tolist():
            value = rows.values[at] if rows.ops[at] == PUT else None
            change = MetaChange(RawKey(rows.keys[at]), TimeStamp(rows.commit_ts[at]), value)
            self._meta.append(_Meta(change, int(each_owner[at])))
        for versions, places in _versions_of(rows, np.flatnonzero(~is_meta)):
            self._append(_Chunk(versions, each_owner[places]))
            self.size_bytes += versions.size_bytes
        while self.size_bytes > self._budget_bytes and self._chunks:
            self._write(self._chunks.pop(0))

    def discard(self, ended: Mapping[int, TimeStamp]) -> None:
        """Remove the rows of requests (number -> resolved_ts) above their resolved_ts."""
        if not ended:
            return
        self._replace([chunk.without(ended) for chunk in self._chunks])
        for spilled in self._spilled:
            spilled.ended.update(ended)
        self._meta = [
            each
            for each in self._meta
            if each.owner not in ended or each.change.commit_ts <= ended[each.owner]
        ]

    def remove(self, span: RawKeyRange) -> None:
        """Remove the changes of a span."""
        self._replace([chunk.outside(span) for chunk in self._chunks])
        for spilled in self._spilled:
            spilled.removed.append(span)
        for log in self._logs:
            log.removed.append(span)
        self._meta = [each for each in self._meta if each.change.key not in span]

    def take(self, up_to: TimeStamp) -> Taken:
        """Remove and return the changes with commit_ts <= `up_to`."""
        taken: list[Versions] = []
        kept: list[_Chunk] = []
        for chunk in self._chunks:
            mask = chunk.versions.commit_ts <= up_to
            if (below := chunk.select(mask)) is not None:
                taken.append(below.versions)
            if (above := chunk.select(~mask)) is not None:
                kept.append(above)
        self._replace(kept)
        lazy = [_lazy(each, up_to) for each in self._spilled if each.oldest_ts <= up_to]
        self._spilled = [each for each in self._spilled if each.newest_ts > up_to]
        for spilled in self._spilled:
            spilled.taken_ts = max(spilled.taken_ts, up_to)
        logs = [each for each in self._logs if each.log.commit_ts <= up_to]
        logs.sort(key=lambda each: each.log.commit_ts)
        self._logs = [each for each in self._logs if each.log.commit_ts > up_to]
        changes = {(m.change.commit_ts, m.change.key): m.change for m in self._meta}
        meta = [changes[key] for key in sorted(changes) if key[0] <= up_to]
        self._meta = [each for each in self._meta if each.change.commit_ts > up_to]
        return Taken(_iterate(taken, lazy), meta, _read_logs(logs))

    def _append(self, chunk: _Chunk) -> None:
        """Add a chunk, joined with those before it that are at most twice as large."""
        parts, size = [chunk], chunk.versions.size_bytes
        for at in range(len(self._chunks) - 1, -1, -1):
            earlier = self._chunks[at]
            if earlier.versions.has_common_handles != chunk.versions.has_common_handles:
                continue
            earlier_bytes = earlier.versions.size_bytes
            if earlier_bytes > 2 * size or size + earlier_bytes > JOINED_BYTES:
                break
            parts.append(self._chunks.pop(at))
            size += earlier_bytes
        owners = np.concatenate([each.owners for each in parts])
        self._chunks.append(_Chunk(concat([each.versions for each in parts]), owners))

    def _replace(self, chunks: Sequence[_Chunk | None]) -> None:
        self._chunks = [chunk for chunk in chunks if chunk is not None]
        self.size_bytes = sum(chunk.versions.size_bytes for chunk in self._chunks)

    def _write(self, chunk: _Chunk) -> None:
        versions = chunk.versions
        columns = {
            "table_id": pa.array(versions.table_id),
            "handle": versions.handles,
            "commit_ts": pa.array(versions.commit_ts),
            "start_ts": pa.array(versions.start_ts),
            "op": pa.array(versions.op),
            "value": versions.values,
            "owner": pa.array(chunk.owners),
        }
        batch = pa.RecordBatch.from_pydict(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        payload = self._spill.put(sink.getvalue().to_pybytes())
        bounds = int(versions.commit_ts.min()), int(versions.commit_ts.max())
        self._spilled.append(_SpilledChunk(payload, *bounds))
        self.size_bytes -= versions.size_bytes


def _popped(rows: list[Row]) -> list[Row]:
    """Remove and return the last rows, of `LARGE_CHUNK_BYTES` or a little more, the last first."""
    popped, size = list[Row](), 0
    while rows and size < LARGE_CHUNK_BYTES:
        popped.append(rows.pop())
        size += len(popped[-1][0]) + len(popped[-1][1])
    return popped


def _table_at(key: RawKey, otherwise: int) -> int:
    """Return the table that a key or a prefix of keys belongs to."""
    is_table = key[:1] == b"t" and len(key) >= HANDLE_AT - 2
    return decode_int(key, 1) if is_table else otherwise


def _lazy(chunk: _SpilledChunk, up_to: int) -> _SpilledChunk:
    """Return a copy that is not changed by later calls."""
    return _SpilledChunk(
        chunk.payload,
        chunk.oldest_ts,
        up_to,
        chunk.taken_ts,
        dict(chunk.ended),
        list(chunk.removed),
    )


def _iterate(taken: list[Versions], spilled: list[_SpilledChunk]) -> Iterator[Versions]:
    taken.reverse()
    spilled.reverse()
    # Each is released before the next one is read.
    while taken:
        yield taken.pop()
    while spilled:
        chunk = spilled.pop()
        rows = chunk.read(chunk.newest_ts)
        if rows is not None:
            yield rows.versions


def _read_logs(logs: list[_Log]) -> Iterator[Versions]:
    logs.reverse()
    while logs:
        yield from logs.pop().read()


def _versions_of(
    rows: CommittedRows, places: npt.NDArray[np.int64]
) -> Iterator[tuple[Versions, npt.NDArray[np.int64]]]:
    """Convert rows of record keys to versions, with their places; one chunk by type of handle.

    Raises:
        CodecError: A key is not a record key.
    """
    if not len(places):
        return
    keys = rows.keys if len(places) == len(rows.keys) else [rows.keys[i] for i in places]
    encoded = pa.array(keys, pa.binary())
    data, bounds = variable_width(encoded)
    starts, lengths = bounds[:-1].astype(np.int64), np.diff(bounds)
    ids = _table_ids(keys, data, starts, lengths)
    is_int = lengths == _INT_KEY_BYTES
    for chosen in (np.flatnonzero(is_int), np.flatnonzero(~is_int)):
        if not len(chosen):
            continue
        if is_int[chosen[0]]:
            handles = pa.array(_ints(data, starts[chosen] + HANDLE_AT))
        else:
            common = encoded if len(chosen) == len(keys) else encoded.take(pa.array(chosen))
            handles = pc.binary_slice(common, HANDLE_AT, int(lengths.max()))
        yield _versions(rows, places[chosen], ids[chosen], handles), places[chosen]


def _table_ids(
    keys: Sequence[bytes],
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Decode the table ids of record keys. Raises `CodecError` for other keys."""
    is_record = lengths >= _INT_KEY_BYTES
    if is_record.all():
        for offset, byte in _MARKS:
            is_record &= data[starts + offset] == byte
    if not is_record.all():
        decode_record_key(RawKey(keys[int(np.argmin(is_record))]))
    return _ints(data, starts + 1)


def _ints(data: npt.NDArray[np.uint8], at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Decode comparable integers at positions."""
    words: npt.NDArray[np.uint64] = np.ndarray((len(data) - 7,), ">u8", data, strides=(1,))
    return np.asarray((words[at].astype(np.uint64) ^ _SIGN).view(np.int64))


def _versions(
    rows: CommittedRows,
    places: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    handles: pa.Array,
) -> Versions:
    is_all = len(places) == len(rows.keys)
    values = rows.values if is_all else [rows.values[i] for i in places]
    ops = np.array(rows.ops, np.uint8)
    return Versions(
        ids,
        handles,
        np.array(rows.commit_ts, np.uint64)[places],
        np.array(rows.start_ts, np.uint64)[places],
        np.where(ops == DELETE, np.uint8(Op.DELETE), np.uint8(Op.PUT))[places],
        pa.array(values, pa.binary()),
    )
