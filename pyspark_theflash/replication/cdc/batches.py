"""Cut the changes of a feed into batches that fit in memory when decoded.

A batch ends between two commit timestamps, so no transaction is divided: a reader of the store sees
all of it or nothing. Transactions with the same commit_ts are in the same batch. A transaction that
does not fit in memory is a batch of its own, whose chunks are decoded and written one by one.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply.versions import Ints, Versions

_SYSTEM_BYTES: Final = 40
"""Size of a version without its row: table id, handle, timestamps and operation."""


class ChangeBatch(NamedTuple):
    """All changes above the batch before it, up to `reached`.

    `large` is the rest of a transaction that does not fit in memory, in further chunks.
    """

    chunks: Sequence[Versions]
    reached: TimeStamp
    large: Iterable[Versions] = ()


def with_large(
    chunks: Sequence[Versions], large: Iterable[Versions], up_to: TimeStamp, size_bytes: int
) -> Iterator[ChangeBatch]:
    """Yield the batches of `cut`, and one for each commit_ts of `large`, in order."""
    low = TimeStamp(0)
    for ts, rest in groupby(large, key=lambda chunk: chunk.newest_ts):
        before = TimeStamp(ts - 1)
        if below := _all_between(chunks, low, before):
            yield from cut(below, before, size_bytes)
        yield ChangeBatch(_all_between(chunks, before, ts), ts, rest)
        low = ts
    if low < up_to:
        yield from cut(_all_between(chunks, low, up_to), up_to, size_bytes)


def cut(chunks: Sequence[Versions], up_to: TimeStamp, size_bytes: int) -> Iterator[ChangeBatch]:
    """Yield batches of at most `size_bytes` by commit_ts; the last one reaches `up_to`.

    A batch is larger if a single commit_ts is.
    """
    ends = _ends(chunks, size_bytes)
    for low, high in zip([TimeStamp(0), *ends], ends, strict=False):
        yield ChangeBatch(_all_between(chunks, low, high), high)
    low = ends[-1] if ends else TimeStamp(0)
    yield ChangeBatch(_all_between(chunks, low, up_to), up_to)


def _ends(chunks: Sequence[Versions], size_bytes: int) -> list[TimeStamp]:
    """Return the commit timestamps at which batches end, except the last batch."""
    if sum(chunk.size_bytes for chunk in chunks) <= size_bytes:
        return []
    commit_ts = np.concatenate([chunk.commit_ts for chunk in chunks])
    sizes = np.concatenate([row_bytes(chunk) + _SYSTEM_BYTES for chunk in chunks])
    every, at = np.unique(commit_ts, return_inverse=True)
    filled = np.cumsum(np.bincount(at, weights=sizes))
    ends, begin = list[TimeStamp](), 0.0
    for ts, before, now in zip(every[:-1], filled[:-1], filled[1:], strict=True):
        # The batch ends at `ts` if the next commit_ts does not fit.
        if now - begin > size_bytes:
            ends.append(TimeStamp(int(ts)))
            begin = before
    return ends


def without_rows(chunk: Versions, others: Sequence[Versions]) -> Versions:
    """Return the versions of rows that are not in other chunks with the same commit_ts.

    After a merge of regions, TiKV sends a transaction again, in smaller parts.
    """
    is_new = np.ones(len(chunk), np.bool_)
    for other in others:
        if other.has_common_handles != chunk.has_common_handles:
            continue
        for table_id in np.intersect1d(chunk.table_id, other.table_id):
            here = np.flatnonzero(chunk.table_id == table_id)
            handles = other.handles.filter(pa.array(other.table_id == table_id))
            is_in = pc.is_in(chunk.handles.take(pa.array(here)), value_set=handles)
            is_new[here] &= ~is_in.to_numpy(zero_copy_only=False)
    return chunk if is_new.all() else chunk.select(np.flatnonzero(is_new))


def row_bytes(chunk: Versions) -> Ints:
    """Return the size of each version's row."""
    sizes: Ints = pc.binary_length(chunk.values).to_numpy(zero_copy_only=False).astype(np.int64)
    return sizes


def _all_between(chunks: Sequence[Versions], low: TimeStamp, high: TimeStamp) -> list[Versions]:
    return [part for chunk in chunks if len(part := _between(chunk, low, high))]


def _between(chunk: Versions, low: TimeStamp, high: TimeStamp) -> Versions:
    """Return the versions with low < commit_ts <= high."""
    is_chosen = (chunk.commit_ts > low) & (chunk.commit_ts <= high)
    return chunk if is_chosen.all() else chunk.select(np.flatnonzero(is_chosen))
