"""A client of TiKV: snapshot reads, and what is asked about transactions.

    with TiKVClient(pd, clock=clock) as tikv:
        value = tikv.get(key, ts, Deadline(clock, 10_000))

Every call ends by its deadline, with the whole answer or a typed error. What a region refuses is
asked again, of the region that the keys are in by then; what a lock blocks is asked again once the
lock's transaction is known to have ended, by the client's `LockPolicy` (`cluster/resolve.py`).
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import TiKVRefusedError, TiKVUnavailableError
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.lock import Lock
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import (
    LockPolicy,
    LockResolver,
    ResolvedLocks,
    SecondaryLocks,
    StatusCheck,
    TxnStatus,
)
from pyspark_theflash.cluster.tikv.directory import Directory
from pyspark_theflash.cluster.tikv.regions import RegionCache
from pyspark_theflash.cluster.tikv.router import RETRY_MS, Router
from pyspark_theflash.cluster.tikv.stores import StoreConnections
from pyspark_theflash.cluster.tikv.wire import call as wire
from pyspark_theflash.cluster.tikv.wire.call import Answer, Found, MvccKeyInfo
from pyspark_theflash.tidb.codec.key import RawKey

SCAN_KEYS: Final = 512
_LOCKS: Final = 4096


class TiKVClient:
    """Safe to use from many threads. Also the `Transactions` of its own lock resolver.

    Every method that asks raises:
        TiKVUnavailableError: until the deadline, no store served the region.
        TiKVRefusedError: a store answers with an error that asking again does not mend.
        RegionGapError: until the deadline, PD knew no region for a key.
        PDUnavailableError, PDRefusedError: as PD says.
    Those that read at a timestamp also `KeyIsLockedError` and `LockResolveError`.
    """

    def __init__(
        self,
        pd: PDClient,
        tls: TlsFiles | None = None,
        *,
        clock: Clock,
        policy: LockPolicy = LockPolicy.WAIT,
    ) -> None:
        """`pd` stays the caller's to close. Connects with the first call."""
        self.clock: Final = clock
        self.directory: Final = Directory(pd)
        self.regions: Final = RegionCache(self.directory)
        self.resolver: Final = LockResolver(self, policy)
        self._stores = StoreConnections(self.directory, tls)
        self._router = Router(self.regions, self._stores)

    def __enter__(self) -> "TiKVClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connections."""
        self._stores.close()

    # Snapshot reads.

    def get(self, key: RawKey, ts: TimeStamp, deadline: Deadline) -> bytes | None:
        """A key's value at a timestamp, None if it does not exist then."""
        encode, decode = partial(_get_request, key=key, ts=ts), partial(wire.decode_get, key)
        through = ResolvedLocks()
        while True:
            _, found = self._router.ask(key, wire.KV_GET, encode, decode, deadline, through)
            if not found.locks:
                return found.pairs[0][1] if found.pairs else None
            through = self._through(through, found.locks, ts, deadline)

    def batch_get(
        self, keys: Iterable[RawKey], ts: TimeStamp, deadline: Deadline
    ) -> dict[RawKey, bytes]:
        """The values of those keys that exist at a timestamp."""
        values: dict[RawKey, bytes] = {}
        left, through = list(dict.fromkeys(keys)), ResolvedLocks()
        while left:
            locked: list[RawKey] = []
            locks: list[Lock] = []
            for group, found in self._router.ask_groups(
                left,
                wire.KV_BATCH_GET,
                partial(wire.encode_batch_get, ts=ts),
                _decode_batch_get,
                deadline,
                through,
            ):
                if found.locks:
                    locked += group
                    locks += found.locks
                else:
                    values.update(found.pairs)
            through = self._through(through, locks, ts, deadline)
            left = locked
        return values

    def scan(
        self, keys: RawKeyRange, ts: TimeStamp, deadline: Deadline, limit: int = SCAN_KEYS
    ) -> Iterator[tuple[tuple[RawKey, bytes], ...]]:
        """All keys of a range that exist at a timestamp, and their values, some at a time.

        In order. Whoever reaches the end has had all of them; an error may come at any time before.
        """
        through, left = ResolvedLocks(), keys.rest(keys.start)
        while left is not None:
            encode = partial(_scan_request, keys=left, ts=ts, limit=limit)
            region, found = self._router.ask(
                left.start, wire.KV_SCAN, encode, wire.decode_scan, deadline, through
            )
            if found.locks:
                through = self._through(through, found.locks, ts, deadline)
                continue
            # Only an empty answer ends a region: a store may send less than it was asked for.
            start = region.range.end
            if found.pairs:
                _check_order([key for key, _ in found.pairs], left, region)
                yield found.pairs
                start = RawKey(found.pairs[-1][0] + b"\0")
            left = left.rest(start) if start else None

    def scan_locks(self, keys: RawKeyRange, max_ts: TimeStamp, deadline: Deadline) -> list[Lock]:
        """All locks of a range whose transactions began at or below a timestamp, by key."""
        locks: list[Lock] = []
        left = keys.rest(keys.start)
        while left is not None:
            encode = partial(_scan_lock_request, keys=left, max_ts=max_ts)
            region, found = self._router.ask(
                left.start, wire.KV_SCAN_LOCK, encode, wire.decode_scan_lock, deadline
            )
            new = [lock for lock in found.locks if lock.key in left]
            locks += new
            start = region.range.end
            if len(found.locks) >= _LOCKS:
                if not new:
                    raise TiKVRefusedError(f"region {region.id}", "locks that were not asked for")
                start = RawKey(new[-1].key + b"\0")
            left = left.rest(start) if start else None
        return locks

    def mvcc_get(self, key: RawKey, deadline: Deadline) -> MvccKeyInfo:
        """All committed changes of a key that garbage collection has left, and its lock."""
        encode = partial(_mvcc_get_request, key=key)
        return self._router.ask(key, wire.MVCC_GET_BY_KEY, encode, wire.decode_mvcc_get, deadline)[
            1
        ]

    # Learner reads.

    def read_index(
        self,
        region: LocatedRegion,
        ranges: Sequence[RawKeyRange],
        start_ts: TimeStamp,
        deadline: Deadline,
    ) -> Answer[wire.ReadIndex]:
        """How far a region must be applied for a snapshot; asked once, of its leader.

        The answer is a region error where the region is another one by now, and the cache has
        learned from it. Ranges have ends and lie in the region.
        """
        encode = partial(_read_index_request, ranges=ranges, start_ts=start_ts)
        return self._router.ask_once(
            region, wire.READ_INDEX, encode, wire.decode_read_index, deadline
        )

    # Transactions.

    def now(self, deadline: Deadline) -> TimeStamp:
        return self.directory.tso(deadline)

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        encode = partial(_check_status_request, check=check)
        method, decode = wire.KV_CHECK_TXN_STATUS, wire.decode_check_status
        return self._router.ask(check.primary, method, encode, decode, deadline)[1]

    def check_secondaries(
        self, keys: Sequence[RawKey], start_ts: TimeStamp, deadline: Deadline
    ) -> list[SecondaryLocks]:
        encode = partial(wire.encode_check_secondaries, start_ts=start_ts)
        method, decode = wire.KV_CHECK_SECONDARY_LOCKS, wire.decode_check_secondaries
        groups = self._router.ask_groups(keys, method, encode, decode, deadline)
        return [answer for _, answer in groups]

    def resolve(
        self,
        keys: Sequence[RawKey],
        start_ts: TimeStamp,
        commit_ts: TimeStamp,
        deadline: Deadline,
    ) -> None:
        encode = partial(wire.encode_resolve, start_ts=start_ts, commit_ts=commit_ts)
        self._router.ask_groups(keys, wire.KV_RESOLVE_LOCK, encode, wire.decode_resolve, deadline)

    def _through(
        self, before: ResolvedLocks, locks: Sequence[Lock], ts: TimeStamp, deadline: Deadline
    ) -> ResolvedLocks:
        """What is known to be no obstacle, once these locks are not."""
        if not locks:
            return before
        now = before | self.resolver.resolve(locks, ts, deadline)
        if now == before and not deadline.sleep_ms(RETRY_MS):
            # By our rules they do not block; asked for again, they are gone or show it.
            raise TiKVUnavailableError("a snapshot read", "met locks that should not block it")
        return now


def _get_request(context: wire.Context, _: LocatedRegion, *, key: RawKey, ts: TimeStamp) -> bytes:
    return wire.encode_get(context, key, ts)


def _decode_batch_get(data: bytes, _: int) -> Answer[Found]:
    return wire.decode_batch_get(data)


def _scan_request(
    context: wire.Context, region: LocatedRegion, *, keys: RawKeyRange, ts: TimeStamp, limit: int
) -> bytes:
    return wire.encode_scan(context, _part(region, keys), ts, limit)


def _scan_lock_request(
    context: wire.Context, region: LocatedRegion, *, keys: RawKeyRange, max_ts: TimeStamp
) -> bytes:
    return wire.encode_scan_lock(context, _part(region, keys), max_ts, _LOCKS)


def _mvcc_get_request(context: wire.Context, _: LocatedRegion, *, key: RawKey) -> bytes:
    return wire.encode_mvcc_get(context, key)


def _check_status_request(context: wire.Context, _: LocatedRegion, *, check: StatusCheck) -> bytes:
    return wire.encode_check_status(context, check)


def _read_index_request(
    context: wire.Context,
    _: LocatedRegion,
    *,
    ranges: Sequence[RawKeyRange],
    start_ts: TimeStamp,
) -> bytes:
    return wire.encode_read_index(context, ranges, start_ts)


def _part(region: LocatedRegion, keys: RawKeyRange) -> RawKeyRange:
    """What of the range is in the region that its start is in."""
    return region.parts_of([keys])[0]


def _check_order(keys: Sequence[RawKey], asked: RawKeyRange, region: LocatedRegion) -> None:
    """A scan must never skip or repeat. Raises `TiKVRefusedError`."""
    ordered = all(a < b for a, b in pairwise(keys))
    if not ordered or keys[0] not in asked or keys[-1] not in asked:
        raise TiKVRefusedError(f"region {region.id}", "keys that were not asked for")
