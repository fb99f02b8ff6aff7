"""TiKV's calls: a request goes to one region as the caller knows it, an answer may refuse that.

Every request carries a `Context`, every answer a region error if the region is not, or no longer,
what the context says; then nothing else in the answer counts.
"""

from collections.abc import Iterable, Mapping, Sequence
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
from pyspark_theflash.cluster.tikv.wire.region import peer_from, peer_to, region_from
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import errorpb_pb2, kvrpcpb_pb2, metapb_pb2
from pyspark_theflash.tidb.protocol.message import parse_message

Context = kvrpcpb_pb2.Context
T = TypeVar("T")

KV_GET: Final = "KvGet"
KV_BATCH_GET: Final = "KvBatchGet"
KV_SCAN: Final = "KvScan"
KV_SCAN_LOCK: Final = "KvScanLock"
KV_CHECK_TXN_STATUS: Final = "KvCheckTxnStatus"
KV_CHECK_SECONDARY_LOCKS: Final = "KvCheckSecondaryLocks"
KV_RESOLVE_LOCK: Final = "KvResolveLock"
READ_INDEX: Final = "ReadIndex"
MVCC_GET_BY_KEY: Final = "MvccGetByKey"

_SOURCE: Final = "theflash"
_NO_LOCKS: Final = ResolvedLocks()
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
    """Why a region did not serve a request, by what is to be done about it."""

    NOT_LEADER = "another peer leads"
    MOVED = "the region is another one by now"
    """Split, merged, or its peers have changed: look it up anew."""
    WRONG_STORE = "the store is another one"
    BUSY = "not now"
    REFUSED = "not at all"
    """Flashback and the like: asking again does not help."""


@dataclass(frozen=True, slots=True)
class RegionError:
    """A region error. `leader` and `regions` are what the store knows better, if anything."""

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
class Found:
    """What a snapshot read found: keys with their values, and locks that were in the way."""

    pairs: tuple[tuple[RawKey, bytes], ...] = field(default=(), repr=False)
    locks: tuple[Lock, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """The index up to which a region must be applied, or a lock that is not applied yet."""

    index: int
    locked: Lock | None = None


@dataclass(frozen=True, slots=True)
class MvccWrite:
    """A committed change of a key; `value` is None where it was deleted."""

    start_ts: TimeStamp
    commit_ts: TimeStamp
    value: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class MvccKeyInfo:
    """All that TiKV has of a key. Changes are sorted by commit_ts."""

    writes: tuple[MvccWrite, ...]
    locked_ts: TimeStamp | None
    ends: Mapping[TimeStamp, TimeStamp]
    """start_ts -> commit_ts of every transaction with a record of any kind; 0: rolled back."""


def context_of(
    region: LocatedRegion, peer: LocatedPeer, through: ResolvedLocks = _NO_LOCKS, max_ms: int = 0
) -> Context:
    """What a request says of the region that it is for, and of locks that do not block it."""
    epoch = region.epoch
    return Context(
        region_id=region.id,
        region_epoch=metapb_pb2.RegionEpoch(conf_ver=epoch.conf_ver, version=epoch.version),
        peer=peer_to(peer),
        resolved_locks=sorted(through.ignored),
        committed_locks=sorted(through.committed),
        max_execution_duration_ms=max_ms,
        request_source=_SOURCE,
    )


def encode_get(context: Context, key: RawKey, ts: TimeStamp) -> bytes:
    """Asks for a key's value at a timestamp."""
    return kvrpcpb_pb2.GetRequest(context=context, key=key, version=ts).SerializeToString()


def decode_get(key: RawKey, data: bytes) -> Answer[Found]:
    """No pair where the key does not exist; TiDB has no empty values."""
    message = parse_message(kvrpcpb_pb2.GetResponse, data)
    exists = not message.not_found and message.value
    pairs = ((key, message.value),) if exists else ()
    return _answer(message, _found(pairs, [message.error]))


def encode_batch_get(context: Context, keys: Sequence[RawKey], ts: TimeStamp) -> bytes:
    """Asks for the values of keys of one region."""
    return kvrpcpb_pb2.BatchGetRequest(context=context, keys=keys, version=ts).SerializeToString()


def decode_batch_get(data: bytes) -> Answer[Found]:
    """Keys that do not exist are left out."""
    message = parse_message(kvrpcpb_pb2.BatchGetResponse, data)
    return _answer(message, _found_pairs(message.pairs, message.error))


def encode_scan(context: Context, keys: RawKeyRange, ts: TimeStamp, limit: int) -> bytes:
    """Asks for the first keys of a range within one region."""
    request = kvrpcpb_pb2.ScanRequest(
        context=context, start_key=keys.start, end_key=keys.end, version=ts, limit=limit
    )
    return request.SerializeToString()


def decode_scan(data: bytes) -> Answer[Found]:
    """In the order of keys."""
    message = parse_message(kvrpcpb_pb2.ScanResponse, data)
    return _answer(message, _found_pairs(message.pairs, message.error))


def encode_scan_lock(context: Context, keys: RawKeyRange, max_ts: TimeStamp, limit: int) -> bytes:
    """Asks for the first locks of a range whose transactions began at or below a timestamp."""
    request = kvrpcpb_pb2.ScanLockRequest(
        context=context,
        start_key=keys.start,
        end_key=keys.end,
        max_version=max_ts,
        limit=limit,
    )
    return request.SerializeToString()


def decode_scan_lock(data: bytes) -> Answer[Found]:
    """In the order of keys."""
    message = parse_message(kvrpcpb_pb2.ScanLockResponse, data)
    met = _found((), [message.error])
    locks = (*met.locks, *map(lock_from, message.locks))
    return _answer(message, Found((), locks, met.failure))


def encode_check_status(context: Context, check: StatusCheck) -> bytes:
    """Asks what has become of a transaction."""
    request = kvrpcpb_pb2.CheckTxnStatusRequest(
        context=context,
        primary_key=check.primary,
        lock_ts=check.start_ts,
        caller_start_ts=check.caller_ts,
        current_ts=check.current_ts,
        rollback_if_not_exist=check.rollback_if_not_found,
        force_sync_commit=check.is_two_phase,
        verify_is_primary=check.verify_primary,
    )
    return request.SerializeToString()


def decode_check_status(data: bytes) -> Answer[TxnStatus]:
    """Raises `CodecError` where the answer is none of those that TiKV gives."""
    message = parse_message(kvrpcpb_pb2.CheckTxnStatusResponse, data)
    if message.HasField("region_error"):
        return _answer(message, TxnStatus(TxnState.UNDECIDED))
    return Answer(_status(message))


def encode_check_secondaries(
    context: Context, keys: Sequence[RawKey], start_ts: TimeStamp
) -> bytes:
    """Asks for an async-commit transaction's locks in one region."""
    request = kvrpcpb_pb2.CheckSecondaryLocksRequest(
        context=context, keys=keys, start_version=start_ts
    )
    return request.SerializeToString()


def decode_check_secondaries(data: bytes, asked: int) -> Answer[SecondaryLocks]:
    """Raises `CodecError` for an error."""
    message = parse_message(kvrpcpb_pb2.CheckSecondaryLocksResponse, data)
    _refuse(message.error)
    locks = tuple(map(lock_from, message.locks))
    return _answer(message, SecondaryLocks(asked, locks, TimeStamp(message.commit_ts)))


def encode_resolve(
    context: Context,
    keys: Sequence[RawKey],
    start_ts: TimeStamp,
    commit_ts: TimeStamp,
) -> bytes:
    """Commits or rolls back a transaction's locks on keys of one region."""
    request = kvrpcpb_pb2.ResolveLockRequest(
        context=context, start_version=start_ts, commit_version=commit_ts, keys=keys
    )
    return request.SerializeToString()


def decode_resolve(data: bytes, _: int) -> Answer[bool]:
    """Raises `CodecError` for an error."""
    message = parse_message(kvrpcpb_pb2.ResolveLockResponse, data)
    _refuse(message.error)
    return _answer(message, True)


def encode_read_index(
    context: Context, ranges: Iterable[RawKeyRange], start_ts: TimeStamp
) -> bytes:
    """Asks how far a region must be applied for a snapshot. Ranges have ends."""
    pairs = [kvrpcpb_pb2.KeyRange(start_key=r.start, end_key=r.end) for r in ranges]
    request = kvrpcpb_pb2.ReadIndexRequest(context=context, start_ts=start_ts, ranges=pairs)
    return request.SerializeToString()


def decode_read_index(data: bytes) -> Answer[ReadIndex]:
    """Raises `CodecError`."""
    message = parse_message(kvrpcpb_pb2.ReadIndexResponse, data)
    locked = lock_from(message.locked) if message.HasField("locked") else None
    return _answer(message, ReadIndex(message.read_index, locked))


def encode_mvcc_get(context: Context, key: RawKey) -> bytes:
    """Asks for all that there is of a key."""
    return kvrpcpb_pb2.MvccGetByKeyRequest(context=context, key=key).SerializeToString()


def decode_mvcc_get(data: bytes) -> Answer[MvccKeyInfo]:
    """Raises `CodecError` for an error, and where a value is missing."""
    message = parse_message(kvrpcpb_pb2.MvccGetByKeyResponse, data)
    if message.error:
        raise CodecError("MvccGetByKey", message.error)
    info = message.info
    values = {value.start_ts: value.value for value in info.values}
    writes, ends = [], dict[TimeStamp, TimeStamp]()
    for write in info.writes:
        # A record with a fence was written anew for a rollback; the commit itself is there too.
        if write.type not in _RECORDS or write.gc_fence:
            continue
        is_rollback = write.type == kvrpcpb_pb2.Op.Rollback
        ends[TimeStamp(write.start_ts)] = TimeStamp(0 if is_rollback else write.commit_ts)
        if write.type not in (kvrpcpb_pb2.Op.Put, kvrpcpb_pb2.Op.Del):
            continue
        value = None
        if write.type == kvrpcpb_pb2.Op.Put:
            value = write.short_value or values.get(write.start_ts)
            if value is None:
                raise CodecError("MvccGetByKey", f"no value of start_ts {write.start_ts}")
        start_ts, commit_ts = TimeStamp(write.start_ts), TimeStamp(write.commit_ts)
        writes.append(MvccWrite(start_ts, commit_ts, value))
    locked_ts = TimeStamp(info.lock.start_ts) if info.HasField("lock") else None
    ordered = tuple(sorted(writes, key=lambda w: w.commit_ts))
    return _answer(message, MvccKeyInfo(ordered, locked_ts, ends))


def lock_from(info: kvrpcpb_pb2.LockInfo) -> Lock:
    """A lock as TiKV shows it to clients. A kind that is not known is taken for one that blocks."""
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
    _refuse(error)
    if message.HasField("lock_info"):
        return TxnStatus(TxnState.LOCKED, lock=lock_from(message.lock_info))
    if message.commit_version:
        return TxnStatus(TxnState.COMMITTED, TimeStamp(message.commit_version))
    action = kvrpcpb_pb2.Action
    if message.lock_ttl:
        raise CodecError("CheckTxnStatus", "a lock that is not shown")
    ended = (action.NoAction, action.TTLExpireRollback, action.LockNotExistRollback)
    return TxnStatus(TxnState.ROLLED_BACK if message.action in ended else TxnState.UNDECIDED)


def _found_pairs(pairs: Iterable[kvrpcpb_pb2.KvPair], error: kvrpcpb_pb2.KeyError) -> Found:
    good, errors = [], [error]
    for pair in pairs:
        if pair.HasField("error"):
            errors.append(pair.error)
        elif pair.value:
            good.append((RawKey(pair.key), pair.value))
    return _found(tuple(good), errors)


def _found(
    pairs: tuple[tuple[RawKey, bytes], ...], errors: Iterable[kvrpcpb_pb2.KeyError]
) -> Found:
    locks: dict[tuple[bytes, int], Lock] = {}
    failure = ""
    for error in errors:
        if error.HasField("locked"):
            locks[error.locked.key, error.locked.lock_version] = lock_from(error.locked)
        else:
            failure = failure or _failure(error)
    return Found(pairs, tuple(locks.values()), failure)


def _failure(error: kvrpcpb_pb2.KeyError) -> str:
    """What else is wrong; "" for an empty error. It names no key."""
    if not error.ByteSize():
        return ""
    names = [descriptor.name for descriptor, _ in error.ListFields()]
    return error.abort or error.retryable or ", ".join(names) or "an error of another kind"


def _refuse(error: kvrpcpb_pb2.KeyError) -> None:
    if failure := _failure(error):
        raise CodecError("a key error", failure)


def _answer(message: Message, value: T) -> Answer[T]:
    if not message.HasField("region_error"):
        return Answer(value)
    return Answer(None, region_error_from(message.region_error))  # type: ignore[attr-defined]


def region_error_from(error: errorpb_pb2.Error) -> RegionError:
    """Raises `CodecError` for bounds of regions that are no keys."""
    reason = error.message[:200]
    if error.HasField("not_leader"):
        leader = error.not_leader.leader
        known = peer_from(leader) if leader.id else None
        return RegionError(RegionFault.NOT_LEADER, reason or "not the leader", known)
    if error.HasField("epoch_not_match"):
        regions = tuple(region_from(r, None) for r in error.epoch_not_match.current_regions)
        return RegionError(RegionFault.MOVED, reason or "another epoch", regions=regions)
    if error.HasField("server_is_busy"):
        busy = error.server_is_busy
        why = busy.reason or reason or "busy"
        return RegionError(RegionFault.BUSY, why, backoff_ms=min(busy.backoff_ms, 10_000))
    if error.HasField("store_not_match"):
        return RegionError(RegionFault.WRONG_STORE, reason or "another store")
    names = {descriptor.name for descriptor, _ in error.ListFields()} - {"message"}
    for fault, kinds in _FAULTS.items():
        if names & kinds:
            return RegionError(fault, reason or ", ".join(sorted(names)))
    return RegionError(RegionFault.BUSY, reason or "an error of another kind")


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
