"""Raft snapshots of regions: chunks by column family, decoded to versions, locks and long rows.

A snapshot replaces a replica's content of a region's range. The engine's versions in the range need
not be removed, because they were committed; but the range must read as the snapshot does. So the
versions of the snapshot are adjusted:

    The engine has the version.          It is not written again.
    The engine's newest version of a     It was superseded by a version that TiKV has collected: a
    row is a put that is not in the      delete at its commit_ts + 1 is added. Reads are allowed
    snapshot.                            only above both.
    A commit has a `gc_fence`.           A delete at the fence is added, unless there is a version
                                         at that timestamp (see `cluster.write`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import CacheFullError, RaftCommandError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.write import Write, WriteKind
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, Op
from pyspark_theflash.storage.mvcc.visibility import same_as_next
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import encode_record_key
from pyspark_theflash.tidb.codec.number import encode_uint_desc, encode_uvarint
from pyspark_theflash.tikv.cache import Changes
from pyspark_theflash.tikv.command import SnapshotHead
from pyspark_theflash.tikv.request import FAMILIES, Family, decode_pairs, record_keys
from pyspark_theflash.tikv.versions import TS_BYTES, LongCommit, decode_commits, versions_of
from pyspark_theflash.tikv.wire import decode_snapshot_chunk

SNAPSHOT_BYTES: Final = 1 << 30
"""A limit far above the size at which TiKV splits a region."""


@dataclass(frozen=True, slots=True)
class RegionSnapshot:
    """A complete snapshot. `orphans` are write records whose rows are missing or delayed."""

    head: SnapshotHead
    versions: Sequence[Versions]
    locks: Changes = field(repr=False)
    defaults: Changes = field(repr=False)
    orphans: Changes = field(repr=False)


class SnapshotBuilder:
    """Assembles a snapshot from its chunks."""

    def __init__(self, limit_bytes: int = SNAPSHOT_BYTES) -> None:
        self._limit_bytes, self._size_bytes = limit_bytes, 0
        self._head: SnapshotHead | None = None
        self._versions: list[Versions] = []
        self._long: list[LongCommit] = []
        self._fences: list[tuple[bytes, Write]] = []
        self._locks: Changes = {}
        self._defaults: Changes = {}

    def add(self, chunk: bytes) -> None:
        """Add the next chunk; the first one must be the header.

        Raises:
            CodecError: A chunk, key or record is malformed.
            RaftCommandError: The header is missing or repeated.
            CacheFullError: The snapshot exceeds the size limit.
        """
        self._size_bytes += len(chunk)
        if self._size_bytes > self._limit_bytes:
            raise CacheFullError(self._size_bytes, self._limit_bytes)
        decoded = decode_snapshot_chunk(chunk)
        if isinstance(decoded, SnapshotHead):
            if self._head is not None:
                index = decoded.applied.applied_index
                raise RaftCommandError(decoded.region.id, index, "the snapshot has two headers")
            self._head = decoded
            return
        if self._head is None:
            raise RaftCommandError(0, 0, "the snapshot does not begin with a header")
        name, pairs = decoded
        family = FAMILIES.get(name)
        if family is not None and pairs:
            self._add(family, pairs)

    def _add(self, family: Family, pairs: Sequence[bytes]) -> None:
        requests = decode_pairs(pairs, family)
        rows = np.arange(len(pairs))
        if family is Family.WRITE:
            commits = decode_commits(requests, rows, self._is_version)
            self._versions += commits.versions
            self._long += commits.long
            return
        rows = record_keys(requests, rows).rows
        entries = zip(requests.keys(rows), requests.values(rows), strict=True)
        (self._locks if family is Family.LOCK else self._defaults).update(entries)

    def _is_version(self, write_key: bytes, record: Write) -> bool:
        if record.gc_fence:
            self._fences.append((write_key, record))
        return True

    def finish(self) -> RegionSnapshot:
        """Return the snapshot after its last chunk.

        Raises:
            RaftCommandError: There was no chunk.
        """
        if self._head is None:
            raise RaftCommandError(0, 0, "the snapshot is empty")
        complete = [c for c in self._long if c.key in self._defaults]
        orphans = [c for c in self._long if c.key not in self._defaults]
        delayed: Changes = {}
        if orphans:
            complete = self._delay(complete, orphans, delayed)
        rows = [
            (c.write_key, Write(WriteKind.PUT, c.start_ts), self._defaults.pop(c.key) or b"")
            for c in complete
        ]
        versions = [*self._versions, *versions_of(rows), *versions_of(list(self._at_fences()))]
        return RegionSnapshot(self._head, versions, self._locks, self._defaults, delayed)

    def _at_fences(self) -> Iterator[tuple[bytes, Write, bytes]]:
        """Yield deletes at fences. They are added last, so a version at the same place wins."""
        for write_key, record in self._fences:
            key = write_key[:-TS_BYTES] + encode_uint_desc(record.gc_fence or 0)
            yield key, Write(WriteKind.DELETE, record.start_ts), b""

    def _delay(
        self, complete: list[LongCommit], orphans: list[LongCommit], delayed: Changes
    ) -> list[LongCommit]:
        """Move orphans, and later commits of their rows, to `delayed`; return the others."""
        first: dict[bytes, TimeStamp] = {}
        for commit in orphans:
            key = commit.write_key[:-TS_BYTES]
            first[key] = min(first.get(key, commit.commit_ts), commit.commit_ts)
            delayed[commit.write_key] = _record(WriteKind.PUT, commit.start_ts, None)
        others = []
        for commit in complete:
            if commit.commit_ts > first.get(commit.write_key[:-TS_BYTES], commit.commit_ts):
                delayed[commit.write_key] = _record(WriteKind.PUT, commit.start_ts, None)
            else:
                others.append(commit)
        self._versions = [_without(each, first, delayed) for each in self._versions]
        return others


def _record(kind: WriteKind, start_ts: int, row: bytes | None) -> bytes:
    """Encode a write record with the fields that a version needs."""
    short = b"" if row is None else b"v" + bytes([len(row)]) + row
    return bytes([kind.value]) + encode_uvarint(start_ts) + short


def _without(versions: Versions, first: dict[bytes, TimeStamp], delayed: Changes) -> Versions:
    """Move versions after the first orphan of their row to `delayed`; return the others."""
    keys = zip(versions.table_id.tolist(), versions.handles.to_pylist(), strict=True)
    stay = np.ones(len(versions), np.bool_)
    for n, (table_id, handle) in enumerate(keys):
        key = encode_bytes(encode_record_key(PhysicalTableID(table_id), handle))
        commit_ts = int(versions.commit_ts[n])
        if key in first and commit_ts > first[key]:
            stay[n] = False
            is_put = versions.op[n] == Op.PUT
            kind = WriteKind.PUT if is_put else WriteKind.DELETE
            row = versions.values[n].as_py() if is_put else None
            record = _record(kind, int(versions.start_ts[n]), row)
            delayed[key + encode_uint_desc(commit_ts)] = record
    return versions.select(np.flatnonzero(stay))


def missing_versions(
    physical_id: PhysicalTableID, versions: Versions | None, stored: Sequence[pa.RecordBatch]
) -> list[Versions]:
    """Return versions whose publication makes a range of the engine equal to a snapshot.

    Args:
        versions: The table's versions in the snapshot, sorted by (handle, commit_ts), if any.
        stored: The engine's keys in the range, see `EngineReader.keys`.
    """
    keys = pa.Table.from_batches(stored) if stored else None
    if keys is None or not keys.num_rows:
        return [] if versions is None else [versions]
    newest = _newest(keys)
    if versions is None:
        return _deletes(physical_id, newest, np.arange(newest.num_rows))
    place = pc.index_in(versions.handles, value_set=newest.column(HANDLE))
    at = np.asarray(place.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    last_ts = np.where(at >= 0, newest.column(COMMIT_TS).to_numpy()[at], np.uint64(0))
    is_stored = np.zeros(newest.num_rows, np.bool_)
    is_stored[at[(at >= 0) & (versions.commit_ts == last_ts)]] = True
    new = versions.select(np.flatnonzero(versions.commit_ts > last_ts))
    return [new, *_deletes(physical_id, newest, np.flatnonzero(~is_stored))]


def _newest(keys: pa.Table) -> pa.RecordBatch:
    """Return the newest version of each row."""
    ordered = keys.sort_by([(HANDLE, "ascending"), (COMMIT_TS, "ascending")]).combine_chunks()
    batch = ordered.to_batches()[0]
    is_last = np.ones(batch.num_rows, np.bool_)
    if batch.num_rows > 1:
        is_last[:-1] = ~same_as_next(batch.column(HANDLE))
    return filter_rows(batch, is_last)


def _deletes(
    physical_id: PhysicalTableID, newest: pa.RecordBatch, rows: npt.NDArray[np.int64]
) -> list[Versions]:
    """Return a delete at commit_ts + 1 for each of the rows that is a put."""
    is_put = newest.column(OP).to_numpy()[rows] == Op.PUT
    chosen = rows[is_put]
    if not len(chosen):
        return []
    handles = newest.column(HANDLE).take(pa.array(chosen))
    commit_ts = newest.column(COMMIT_TS).to_numpy()[chosen]
    return [
        Versions(
            np.full(len(chosen), physical_id, np.int64),
            handles,
            commit_ts + np.uint64(1),
            commit_ts,
            np.full(len(chosen), Op.DELETE, np.uint8),
            pa.array([b""] * len(chosen), pa.binary()),
        )
    ]
