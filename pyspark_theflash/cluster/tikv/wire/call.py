"""Messages of TiKV's gRPC service, each about one region.

Every request contains a `Context` with the region's id, epoch and peer. If it does not match the
store's state, the response contains a region error, and its other fields are meaningless.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.lock import Lock, LockKind
from pyspark_theflash.cluster.resolve import (
    ResolvedLocks,
    SecondaryLocks,
    StatusCheck,
    TxnState,
    TxnStatus,
)
from pyspark_theflash.cluster.tikv.wire.directory import peer_from, peer_to, region_from
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import errorpb_pb2, kvrpcpb_pb2, metapb_pb2
from pyspark_theflash.tidb.protocol.message import parse_message
from pyspark_theflash.tidb.schema.meta_key import MetaKey, MetaWrite

T = TypeVar("T")

KV_GET: Final = "KvGet"
KV_SCAN: Final = "KvScan"
KV_CHECK_TXN_STATUS: Final = "KvCheckTxnStatus"
KV_CHECK_SECONDARY_LOCKS: Final = "KvCheckSecondaryLocks"
KV_RESOLVE_LOCK: Final = "KvResolveLock"
KV_SCAN_LOCK: Final = "KvScanLock"
READ_INDEX: Final = "ReadIndex"
MVCC_GET_BY_KEY: Final = "MvccGetByKey"

_SOURCE: Final = "theflash"
_KINDS: Final = {
    kvrpcpb_pb2.Op.Put: LockKind.PUT,
    kvrpcpb_pb2.Op.Insert: LockKind.PUT,
    kvrpcpb_pb2.Op.Del: LockKind.DELETE,
    kvrpcpb_pb2.Op.Lock: LockKind.LOCK,
    kvrpcpb_pb2.Op.CheckNotExists: LockKind.LOCK,
    kvrpcpb_pb2.Op.PessimisticLock: LockKind.PESSIMISTIC,
    kvrpcpb_pb2.Op.SharedLock: LockKind.SHARED,
    kvrpcpb_pb2.Op.SharedPessimisticLock: LockKind.SHARED,
}

_RECORDS: Final = frozenset(map(kvrpcpb_pb2.Op.Value, ("Put", "Del", "Lock", "Rollback")))


class RegionFault(Enum):
    """Kinds of region errors, by how the client handles them."""

    NOT_LEADER = "another peer is the leader"
    MOVED = "the region has changed"
    """It was split or merged, or its peers have changed: look it up again."""
    WRONG_STORE = "another store is at this address"
    BUSY = "the store is busy"
    REFUSED = "the region is not available"
    """For instance during a flashback: a retry does not help."""


@dataclass(frozen=True, slots=True)
class RegionError:
    """A region error. `leader` and `regions` are the current state, if the store reports it."""

    fault: RegionFault
    reason: str
    leader: LocatedPeer | None = None
    regions: tuple[LocatedRegion, ...] = ()
    backoff_ms: int = 0


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """Either `value` or `region_error`."""

    value: T | None
    region_error: RegionError | None = None


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The result of a snapshot read: keys with their values, and blocking locks."""

    pairs: tuple[tuple[RawKey, bytes], ...] = field(default=(), repr=False)
    locks: tuple[Lock, ...] = ()
    failure: str = ""


def encode_request(
    request: Message, region: LocatedRegion, peer: LocatedPeer, resolved: ResolvedLocks
) -> bytes:
    """Encode a request with its context: the region, its peer, and the resolved locks."""
    epoch = region.epoch
    context = kvrpcpb_pb2.Context(
        region_id=region.id,
        region_epoch=metapb_pb2.RegionEpoch(conf_ver=epoch.conf_ver, version=epoch.version),
        peer=peer_to(peer),
        resolved_locks=sorted(resolved.ignored),
        committed_locks=sorted(resolved.committed),
        request_source=_SOURCE,
    )
    request.context.CopyFrom(context)  # type: ignore[attr-defined]
    return request.SerializeToString()


# Requests, without their context, and responses.


def get_request(key: RawKey, ts: TimeStamp) -> Message:
    """Return a request for a key's value at a timestamp."""
    return kvrpcpb_pb2.GetRequest(key=key, version=ts)


def decode_get(key: RawKey, data: bytes) -> Answer[ReadResult]:
    """Decode a key's value. An empty value means that the key does not exist."""
    message = parse_message(kvrpcpb_pb2.GetResponse, data)
    exists = not message.not_found and message.value
    pairs = ((key, message.value),) if exists else ()
    return _answer(message, _read_result(pairs, [message.error]))


def scan_request(keys: RawKeyRange, ts: TimeStamp, limit: int) -> Message:
    """Return a request for the first keys of a range within one region."""
    start, end = keys.start, keys.end
    return kvrpcpb_pb2.ScanRequest(start_key=start, end_key=end, version=ts, limit=limit)


def decode_scan(data: bytes) -> Answer[ReadResult]:
    """Decode keys and values, ordered by key."""
    message = parse_message(kvrpcpb_pb2.ScanResponse, data)
    return _answer(message, _pairs_result(message.pairs, message.error))


def check_status_request(check: StatusCheck) -> Message:
    """Return a request for a transaction's state."""
    return kvrpcpb_pb2.CheckTxnStatusRequest(
        primary_key=check.primary,
        lock_ts=check.start_ts,
        caller_start_ts=check.caller_ts,
        current_ts=check.current_ts,
        rollback_if_not_exist=check.rollback_if_not_found,
        force_sync_commit=check.is_two_phase,
        verify_is_primary=check.verify_primary,
    )


def decode_check_status(data: bytes) -> Answer[TxnStatus]:
    """Decode a transaction's state. Raises `CodecError` for an invalid combination of fields."""
    message = parse_message(kvrpcpb_pb2.CheckTxnStatusResponse, data)
    if message.HasField("region_error"):
        return _answer(message, TxnStatus(TxnState.UNDECIDED))
    return Answer(_status(message))


def check_secondaries_request(keys: Sequence[RawKey], start_ts: TimeStamp) -> Message:
    """Return a request for an async-commit transaction's secondary locks in one region."""
    return kvrpcpb_pb2.CheckSecondaryLocksRequest(keys=keys, start_version=start_ts)


def decode_check_secondaries(key_count: int, data: bytes) -> Answer[SecondaryLocks]:
    """Decode the state of `key_count` secondaries. Raises `CodecError` for an error."""
    message = parse_message(kvrpcpb_pb2.CheckSecondaryLocksResponse, data)
    _raise_failure(message.error)
    locks = tuple(map(lock_from, message.locks))
    return _answer(message, SecondaryLocks(key_count, locks, TimeStamp(message.commit_ts)))


def resolve_request(keys: Sequence[RawKey], start_ts: TimeStamp, commit_ts: TimeStamp) -> Message:
    """Return a request to commit or roll back a transaction's locks on keys of one region."""
    return kvrpcpb_pb2.ResolveLockRequest(
        start_version=start_ts, commit_version=commit_ts, keys=keys
    )


def decode_resolve(_: int, data: bytes) -> Answer[bool]:
    """Decode the response of a lock resolution. Raises `CodecError` for an error."""
    message = parse_message(kvrpcpb_pb2.ResolveLockResponse, data)
    _raise_failure(message.error)
    return _answer(message, True)


def scan_locks_request(keys: RawKeyRange, max_ts: TimeStamp, limit: int) -> Message:
    """Return a request for the first locks of a range within one region."""
    return kvrpcpb_pb2.ScanLockRequest(
        start_key=keys.start, end_key=keys.end, max_version=max_ts, limit=limit
    )


def decode_scan_locks(data: bytes) -> Answer[tuple[Lock, ...]]:
    """Decode locks. Raises `CodecError` for an error."""
    message = parse_message(kvrpcpb_pb2.ScanLockResponse, data)
    _raise_failure(message.error)
    return _answer(message, tuple(map(lock_from, message.locks)))


def read_index_request(ranges: Iterable[RawKeyRange], start_ts: TimeStamp) -> Message:
    """Return a request for a region's read index. The ranges must have ends."""
    pairs = [kvrpcpb_pb2.KeyRange(start_key=r.start, end_key=r.end) for r in ranges]
    return kvrpcpb_pb2.ReadIndexRequest(start_ts=start_ts, ranges=pairs)


def decode_read_index(data: bytes) -> Answer[int | Lock]:
    """Decode a read index, or the lock in the leader's memory. Raises `CodecError`."""
    message = parse_message(kvrpcpb_pb2.ReadIndexResponse, data)
    has_lock = message.HasField("locked")
    return _answer(message, lock_from(message.locked) if has_lock else message.read_index)


def mvcc_get_request(key: RawKey) -> Message:
    """Return a request for the MVCC records of a key."""
    return kvrpcpb_pb2.MvccGetByKeyRequest(key=key)


def decode_mvcc_get(data: bytes) -> Answer[MetaKey]:
    """Decode MVCC records. Raises `CodecError` for an error, and if a value is missing."""
    message = parse_message(kvrpcpb_pb2.MvccGetByKeyResponse, data)
    if message.error:
        raise CodecError("MvccGetByKey", message.error)
    info = message.info
    values = {value.start_ts: value.value for value in info.values}
    writes, ends = [], dict[TimeStamp, TimeStamp]()
    commits = {0, *(write.commit_ts for write in info.writes)}
    for write in info.writes:
        # If the version at the fence was collected, this one is not valid: see `cluster.write`.
        if write.type not in _RECORDS or write.gc_fence not in commits:
            continue
        is_rollback = write.type == kvrpcpb_pb2.Op.Rollback
        ends[TimeStamp(write.start_ts)] = TimeStamp(0 if is_rollback else write.commit_ts)
        if write.type not in (kvrpcpb_pb2.Op.Put, kvrpcpb_pb2.Op.Del):
            continue
        value = None
        if write.type == kvrpcpb_pb2.Op.Put:
            value = write.short_value or values.get(write.start_ts)
            if value is None:
                raise CodecError("MvccGetByKey", f"no value for start_ts={write.start_ts}")
        start_ts, commit_ts = TimeStamp(write.start_ts), TimeStamp(write.commit_ts)
        writes.append(MetaWrite(start_ts, commit_ts, value))
    locked_ts = TimeStamp(info.lock.start_ts) if info.HasField("lock") else None
    ordered = tuple(sorted(writes, key=lambda w: w.commit_ts))
    return _answer(message, MetaKey(ordered, locked_ts, ends))


def lock_from(info: kvrpcpb_pb2.LockInfo) -> Lock:
    """Convert a LockInfo to a lock. An unknown kind becomes a put, which blocks reads."""
    return Lock(
        RawKey(info.key),
        _KINDS.get(info.lock_type, LockKind.PUT),
        RawKey(info.primary_lock),
        TimeStamp(info.lock_version),
        info.lock_ttl,
        for_update_ts=TimeStamp(info.lock_for_update_ts),
        txn_size=info.txn_size,
        min_commit_ts=TimeStamp(info.min_commit_ts),
        use_async_commit=info.use_async_commit,
        secondaries=tuple(map(RawKey, info.secondaries)),
        shared_by=tuple(map(lock_from, info.shared_lock_infos)),
    )


def _status(message: kvrpcpb_pb2.CheckTxnStatusResponse) -> TxnStatus:
    error = message.error
    if error.HasField("txn_not_found"):
        return TxnStatus(TxnState.NOT_FOUND)
    if error.HasField("primary_mismatch"):
        return TxnStatus(TxnState.MISMATCH, lock=lock_from(error.primary_mismatch.lock_info))
    _raise_failure(error)
    if message.HasField("lock_info"):
        return TxnStatus(TxnState.LOCKED, lock=lock_from(message.lock_info))
    if message.commit_version:
        return TxnStatus(TxnState.COMMITTED, TimeStamp(message.commit_version))
    action = kvrpcpb_pb2.Action
    if message.lock_ttl:
        raise CodecError("CheckTxnStatus", "lock_ttl is set, but lock_info is missing")
    ended = (action.NoAction, action.TTLExpireRollback, action.LockNotExistRollback)
    return TxnStatus(TxnState.ROLLED_BACK if message.action in ended else TxnState.UNDECIDED)


def _pairs_result(pairs: Iterable[kvrpcpb_pb2.KvPair], error: kvrpcpb_pb2.KeyError) -> ReadResult:
    values, errors = [], [error]
    for pair in pairs:
        if pair.HasField("error"):
            errors.append(pair.error)
        elif pair.value:
            values.append((RawKey(pair.key), pair.value))
    return _read_result(tuple(values), errors)


def _read_result(
    pairs: tuple[tuple[RawKey, bytes], ...], errors: Iterable[kvrpcpb_pb2.KeyError]
) -> ReadResult:
    locks: dict[tuple[bytes, int], Lock] = {}
    failure = ""
    for error in errors:
        if error.HasField("locked"):
            locks[error.locked.key, error.locked.lock_version] = lock_from(error.locked)
        else:
            failure = failure or _failure(error)
    return ReadResult(pairs, tuple(locks.values()), failure)


def _failure(error: kvrpcpb_pb2.KeyError) -> str:
    """Return a description of a key error other than a lock, without keys; "" if it is empty."""
    if not error.ByteSize():
        return ""
    names = [descriptor.name for descriptor, _ in error.ListFields()]
    return error.abort or error.retryable or ", ".join(names) or "unknown error"


def _raise_failure(error: kvrpcpb_pb2.KeyError) -> None:
    if failure := _failure(error):
        raise CodecError("key error", failure)


def _answer(message: Message, value: T) -> Answer[T]:
    if not message.HasField("region_error"):
        return Answer(value)
    return Answer(None, region_error_from(message.region_error))  # type: ignore[attr-defined]


def region_error_from(error: errorpb_pb2.Error) -> RegionError:
    """Decode a region error. Raises `CodecError` if a region's bound is not a key."""
    reason = error.message[:200]
    if error.HasField("not_leader"):
        leader = error.not_leader.leader
        peer = peer_from(leader) if leader.id else None
        return RegionError(RegionFault.NOT_LEADER, reason or "not the leader", peer)
    if error.HasField("epoch_not_match"):
        regions = tuple(region_from(r, None) for r in error.epoch_not_match.current_regions)
        return RegionError(RegionFault.MOVED, reason or "the epoch does not match", regions=regions)
    if error.HasField("server_is_busy"):
        busy = error.server_is_busy
        reason = busy.reason or reason or "busy"
        return RegionError(RegionFault.BUSY, reason, backoff_ms=min(busy.backoff_ms, 10_000))
    if error.HasField("store_not_match"):
        return RegionError(RegionFault.WRONG_STORE, reason or "the store does not match")
    names = {descriptor.name for descriptor, _ in error.ListFields()} - {"message"}
    for fault, kinds in _FAULTS.items():
        if names & kinds:
            return RegionError(fault, reason or ", ".join(sorted(names)))
    return RegionError(RegionFault.BUSY, reason or "unknown error")


_FAULTS: Final = {
    RegionFault.REFUSED: {"FlashbackInProgress", "FlashbackNotPrepared"},
    RegionFault.MOVED: {
        "region_not_found",
        "region_not_initialized",
        "key_not_in_region",
        "is_witness",
        "mismatch_peer_id",
    },
}
