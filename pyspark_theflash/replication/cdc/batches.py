"""Cut the changes of a feed into batches that fit in memory when decoded.

A batch ends between two commit timestamps, so no transaction is divided: a reader of the store sees
all of it or nothing. Transactions with the same commit_ts are in the same batch.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow.compute as pc

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply.versions import Ints, Versions

_SYSTEM_BYTES: Final = 40
"""Size of a version without its row: table id, handle, timestamps and operation."""


class ChangeBatch(NamedTuple):
    """All changes above the batch before it, up to `reached`."""

    chunks: Sequence[Versions]
    reached: TimeStamp


def cut(chunks: Sequence[Versions], up_to: TimeStamp, size_bytes: int) -> Iterator[ChangeBatch]:
    """Yield batches of at most `size_bytes` by commit_ts; the last one reaches `up_to`.

    A batch is larger if a single commit_ts is.
    """
    ends = _ends(chunks, size_bytes)
    for low, high in zip([TimeStamp(0), *ends], ends, strict=False):
        yield ChangeBatch([c for c in (_between(c, low, high) for c in chunks) if len(c)], high)
    low = ends[-1] if ends else TimeStamp(0)
    rest = [c for c in (_between(c, low, up_to) for c in chunks) if len(c)]
    yield ChangeBatch(rest, up_to)


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


def row_bytes(chunk: Versions) -> Ints:
    """Return the size of each version's row."""
    sizes: Ints = pc.binary_length(chunk.values).to_numpy(zero_copy_only=False).astype(np.int64)
    return sizes


def _between(chunk: Versions, low: TimeStamp, high: TimeStamp) -> Versions:
    """Return the versions with low < commit_ts <= high."""
    is_chosen = (chunk.commit_ts > low) & (chunk.commit_ts <= high)
    return chunk if is_chosen.all() else chunk.select(np.flatnonzero(is_chosen))
