"""Decode records of the write column family to columnar versions of rows.

The row of a commit is in the write record if it is short (up to 255 bytes); otherwise it is in the
default column family under the transaction's start_ts. Only puts and deletes are versions; lock
records and rollbacks are skipped.

**Rewritten records.** TiKV rewrites a commit record with a `gc_fence` if the rollback of another
transaction has the same key and timestamp (see `cluster.write`). The original record has already
been received in the log or in the region's first snapshot, so the rewritten one is skipped. An `R`
without a fence is on the original record of a commit whose lock contained the rollback's timestamp;
it is a version if its transaction held a lock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.write import Write, WriteKind, decode_write
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.storage.mvcc.version import Op
from pyspark_theflash.tidb.codec.array import binary, variable_width
from pyspark_theflash.tidb.codec.bytes import bytes_at
from pyspark_theflash.tidb.codec.key import HANDLE_AT, MvccKey, decode_mvcc_key, decode_record_key
from pyspark_theflash.tidb.codec.number import encode_uint_desc, uvarints_at
from pyspark_theflash.tidb.codec.reader import Mask, Positions
from pyspark_theflash.tikv.request import INT_KEY_BYTES, Requests, RowKeyPositions, record_keys

TS_BYTES: Final = 8
_SHORT_VALUE: Final = ord("v")
_REWRITTEN: Final = np.frombuffer(b"RF", np.uint8)
_DATA: Final = np.array([WriteKind.PUT.value, WriteKind.DELETE.value], np.uint8)


@dataclass(frozen=True, slots=True)
class LongCommit:
    """A put whose row is in the default column family under `key`."""

    write_key: bytes
    key: bytes
    start_ts: TimeStamp
    commit_ts: TimeStamp


@dataclass(frozen=True, slots=True)
class Commits:
    """Decoded write records: versions, and puts whose rows are elsewhere."""

    versions: list[Versions]
    long: list[LongCommit]


IsVersion = Callable[[bytes, Write], bool]
"""(write key, record with `R` or a gc_fence) -> whether the record is a version."""


def decode_commits(requests: Requests, rows: Positions, is_version: IsVersion) -> Commits:
    """Decode puts into the write column family.

    Raises:
        CodecError: A key or a record is malformed.
    """
    keys = record_keys(requests, rows)
    kinds = requests.reader.bytes_at(requests.value_at[keys.rows])
    is_data = (kinds == _DATA[0]) | (kinds == _DATA[1])
    if not is_data.all():
        _check_kinds(requests, keys, kinds)
        keys, kinds = keys.select(np.flatnonzero(is_data)), kinds[is_data]
    is_int = keys.has_int_handle(requests, TS_BYTES)
    commits = Commits([], [])
    for chosen, decode in (
        (np.flatnonzero(is_int), _int_handles),
        (np.flatnonzero(~is_int), _common_handles),
    ):
        if len(chosen):
            _add(commits, requests, keys.select(chosen), kinds[chosen], decode, is_version)
    return commits


def _check_kinds(requests: Requests, keys: RowKeyPositions, kinds: npt.NDArray[np.uint8]) -> None:
    is_known = np.isin(kinds, np.array([kind.value for kind in WriteKind], np.uint8))
    requests.reader.check(is_known, "not a write record", requests.value_at[keys.rows])


HandlesOf = Callable[[Requests, RowKeyPositions], tuple[pa.Array, Positions]]


def _int_handles(requests: Requests, keys: RowKeyPositions) -> tuple[pa.Array, Positions]:
    """Decode the handles of keys, and return the positions of the timestamps after them."""
    at = requests.key_at[keys.rows]
    return pa.array(keys.int_handles(requests.reader, at)), at + INT_KEY_BYTES


def _common_handles(requests: Requests, keys: RowKeyPositions) -> tuple[pa.Array, Positions]:
    raw, ts_at = bytes_at(requests.reader, requests.key_at[keys.rows], requests.key_end[keys.rows])
    data, bounds = variable_width(raw)
    # Interpret the buffer as 2n values, alternating prefixes and handles, and take the handles.
    cut = np.empty(2 * len(raw) + 1, np.int64)
    cut[::2], cut[1::2] = bounds, bounds[:-1] + HANDLE_AT
    handles = binary(data, cut).take(pa.array(np.arange(1, 2 * len(raw), 2)))
    return handles, ts_at


def _add(
    commits: Commits,
    requests: Requests,
    keys: RowKeyPositions,
    kinds: npt.NDArray[np.uint8],
    decode: HandlesOf,
    is_version: IsVersion,
) -> None:
    """Decode and add the commits of keys whose handles have one type."""
    reader, ends = requests.reader, requests.reader.ends[keys.rows]
    handles, ts_at = decode(requests, keys)
    is_whole = ts_at + TS_BYTES == requests.key_end[keys.rows]
    reader.check(is_whole, "no timestamp after the key", ts_at)
    commit_ts = ~reader.big_endian_at(ts_at, TS_BYTES)
    start_ts, at = uvarints_at(reader, requests.value_at[keys.rows] + 1, ends)
    tags = np.where(at < ends, reader.bytes_at(at), 0)
    has_value = tags == _SHORT_VALUE
    begin = np.where(has_value, at + 2, at)
    value_end = np.where(has_value, begin + reader.bytes_at(at + 1), at)
    reader.check_ends(value_end, ends, at)
    is_commit = _are_commits(requests, keys, value_end, ends, is_version)
    is_put = kinds == WriteKind.PUT.value
    is_complete = is_commit & (has_value | ~is_put)
    op = np.where(is_put, np.uint8(Op.PUT), np.uint8(Op.DELETE))
    chosen = np.flatnonzero(is_complete)
    if len(chosen):
        end = np.where(is_put, value_end, begin)[chosen]
        commits.versions.append(
            Versions(
                keys.table_id[chosen],
                handles if len(chosen) == len(handles) else handles.take(pa.array(chosen)),
                commit_ts[chosen],
                start_ts[chosen],
                op[chosen],
                reader.slices(begin[chosen], end),
            )
        )
    long = np.flatnonzero(is_commit & is_put & ~has_value)
    write_keys = requests.keys(keys.rows[long])
    for n, write_key in zip(long.tolist(), write_keys, strict=True):
        start = TimeStamp(int(start_ts[n]))
        key = write_key[:-TS_BYTES] + encode_uint_desc(start)
        commits.long.append(LongCommit(write_key, key, start, TimeStamp(int(commit_ts[n]))))


def _are_commits(
    requests: Requests,
    keys: RowKeyPositions,
    value_end: Positions,
    ends: Positions,
    is_version: IsVersion,
) -> Mask:
    """Return which records are versions; those with an `R` or `F` tag are decoded to decide."""
    result = np.ones(len(value_end), np.bool_)
    more = np.flatnonzero(value_end < ends)
    rare = more[np.isin(requests.reader.bytes_at(value_end[more]), _REWRITTEN)]
    records = requests.values(keys.rows[rare])
    write_keys = requests.keys(keys.rows[rare])
    for n, record, write_key in zip(rare.tolist(), records, write_keys, strict=True):
        result[n] = is_version(write_key, decode_write(record))
    return result


def versions_of(rows: Sequence[tuple[bytes, Write, bytes]]) -> list[Versions]:
    """Convert (write key, record, row of a put) to versions, one row at a time.

    Raises:
        CodecError: A key is not a record key.
    """
    by_type: dict[type, list[tuple[int, object, int, int, int, bytes]]] = {}
    for write_key, record, value in rows:
        key, commit_ts = decode_mvcc_key(MvccKey(write_key))
        record_key = decode_record_key(key)
        op = Op.PUT if record.kind is WriteKind.PUT else Op.DELETE
        row = (record_key.table_id, record_key.handle, commit_ts, record.start_ts, op, value)
        by_type.setdefault(type(record_key.handle), []).append(row)
    versions = []
    for parts in by_type.values():
        columns = list(zip(*parts, strict=True))
        versions.append(
            Versions(
                np.array(columns[0], np.int64),
                pa.array(columns[1]),
                np.array(columns[2], np.uint64),
                np.array(columns[3], np.uint64),
                np.array(columns[4], np.uint8),
                pa.array(columns[5], pa.binary()),
            )
        )
    return versions
