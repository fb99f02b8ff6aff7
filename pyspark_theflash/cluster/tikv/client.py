"""A client of TiKV: snapshot reads, transaction status, read index.

    with TiKVClient(pd, clock=clock) as tikv:
        value = tikv.get(key, ts, Deadline(clock, 10_000))

Every call ends by its deadline, with a complete result or a typed error. After a region error, the
request is retried on the region that contains the keys by then. After a lock, it is retried when
the lock is resolved according to the client's `LockPolicy` (`cluster/resolve.py`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Final, TypeVar

from google.protobuf.message import Message

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
from pyspark_theflash.cluster.tikv.regions import RegionCache
from pyspark_theflash.cluster.tikv.router import RETRY_MS, Router
from pyspark_theflash.cluster.tikv.stores import StoreConnections
from pyspark_theflash.cluster.tikv.wire import call as wire
from pyspark_theflash.cluster.tikv.wire.directory import Directory
from pyspark_theflash.cluster.tikv.wire.page import ScanPage, decode_scan_page
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.meta_key import MetaKey

R = TypeVar("R", bound=wire.ReadResult)

SCAN_KEYS: Final = 512
SCAN_LOCKS: Final = 1024


class TiKVClient:
    """A client of one cluster's TiKV. Thread-safe. Implements `Transactions` for its resolver.

    Every method that makes a call raises:
        TiKVUnavailableError: No store served the region before the deadline.
        TiKVRefusedError: A store returned an error that a retry does not fix.
        RegionGapError: PD returned no region for a key before the deadline.
        PDUnavailableError, PDRefusedError: PD did not respond, or returned an error.
    Methods that read at a timestamp also raise `KeyIsLockedError` and `LockResolveError`.
    """

    def __init__(
        self,
        pd: PDClient,
        tls: TlsFiles | None = None,
        *,
        clock: Clock,
        policy: LockPolicy = LockPolicy.WAIT,
    ) -> None:
        """Create a client, which connects on the first call. It does not close `pd`."""
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
        """Close the connections."""
        self._stores.close()

    # Snapshot reads.

    def get(self, key: RawKey, ts: TimeStamp, deadline: Deadline) -> bytes | None:
        """Return a key's value at a timestamp; None if the key does not exist."""
        request, decode = wire.get_request(key, ts), partial(wire.decode_get, key)
        resolved = ResolvedLocks()
        while True:
            _, read = self._router.call(
                key, wire.KV_GET, lambda _: request, decode, deadline, resolved
            )
            if not read.locks:
                return read.pairs[0][1] if read.pairs else None
            resolved = self._resolve(resolved, read.locks, ts, deadline)

    def scan(
        self, keys: RawKeyRange, ts: TimeStamp, deadline: Deadline, limit: int = SCAN_KEYS
    ) -> Iterator[tuple[tuple[RawKey, bytes], ...]]:
        """Yield batches of the keys of a range that exist at a timestamp, with their values.

        Keys are in order. The scan is complete if the iterator ends without an error.
        """
        resolved, left = ResolvedLocks(), keys.rest(keys.start)
        while left is not None:
            region, read, resolved = self._read_page(
                left, ts, limit, wire.decode_scan, deadline, resolved
            )
            # Only an empty response ends a region: a store may return fewer keys than the limit.
            start = region.range.end
            if read.pairs:
                places = [key for key, _ in read.pairs]
                is_ordered = all(a < b for a, b in pairwise(places))
                start = _after_page(places[0], places[-1], is_ordered, left, region)
                yield read.pairs
            left = left.rest(start) if start else None

    def scan_page(
        self, keys: RawKeyRange, ts: TimeStamp, limit: int, deadline: Deadline
    ) -> tuple[ScanPage, RawKeyRange | None]:
        """Return the first keys of a range that exist at a timestamp, and the rest of the range.

        The page may be empty even if there is a rest, which is None after the last page.
        """
        region, page, _ = self._read_page(
            keys, ts, limit, decode_scan_page, deadline, ResolvedLocks()
        )
        start = region.range.end
        if len(page.keys):
            first, last = RawKey(page.keys[0].as_py()), RawKey(page.keys[-1].as_py())
            start = _after_page(first, last, page.is_ordered, keys, region)
        return page, keys.rest(start) if start else None

    def _read_page(
        self,
        keys: RawKeyRange,
        ts: TimeStamp,
        limit: int,
        decode: Callable[[bytes], wire.Answer[R]],
        deadline: Deadline,
        resolved: ResolvedLocks,
    ) -> tuple[LocatedRegion, R, ResolvedLocks]:
        """Return the start of a range, in one region, when no unresolved lock blocks it."""
        request = partial(_scan_request, keys, ts, limit)
        while True:
            region, read = self._router.call(
                keys.start, wire.KV_SCAN, request, decode, deadline, resolved
            )
            if not read.locks:
                return region, read, resolved
            resolved = self._resolve(resolved, read.locks, ts, deadline)

    def mvcc_get(self, key: RawKey, deadline: Deadline) -> MetaKey:
        """Return a key's lock and its committed changes that are not garbage-collected yet."""
        return self._router.call(
            key,
            wire.MVCC_GET_BY_KEY,
            lambda _: wire.mvcc_get_request(key),
            wire.decode_mvcc_get,
            deadline,
        )[1]

    # Learner reads; see `tikv.learner_read.RegionLeaders`.

    def cover(
        self, ranges: Iterable[RawKeyRange], deadline: Deadline
    ) -> list[tuple[LocatedRegion, list[RawKeyRange]]]:
        """Return regions that cover the ranges, each with its intersections."""
        return self.regions.cover(ranges, deadline)

    def read_index(
        self,
        region: LocatedRegion,
        ranges: Sequence[RawKeyRange],
        snapshot_ts: TimeStamp,
        deadline: Deadline,
    ) -> int | Lock | None:
        """Return a region's read index for a snapshot, or a lock in the memory of its leader.

        None if the region has changed or its leader did not respond; then the region cache has been
        updated. There is no retry. The ranges have ends and lie in the region.
        """
        request = wire.read_index_request(ranges, snapshot_ts)
        return self._router.call_once(
            region, wire.READ_INDEX, request, wire.decode_read_index, deadline
        ).value

    # Transactions.

    def now(self, deadline: Deadline) -> TimeStamp:
        return self.directory.tso(deadline)

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        return self._router.call(
            check.primary,
            wire.KV_CHECK_TXN_STATUS,
            lambda _: wire.check_status_request(check),
            wire.decode_check_status,
            deadline,
        )[1]

    def check_secondaries(
        self, keys: Sequence[RawKey], start_ts: TimeStamp, deadline: Deadline
    ) -> list[SecondaryLocks]:
        request = partial(wire.check_secondaries_request, start_ts=start_ts)
        method, decode = wire.KV_CHECK_SECONDARY_LOCKS, wire.decode_check_secondaries
        return self._router.call_groups(keys, method, request, decode, deadline)

    def resolve(
        self,
        keys: Sequence[RawKey],
        start_ts: TimeStamp,
        commit_ts: TimeStamp,
        deadline: Deadline,
    ) -> None:
        request = partial(wire.resolve_request, start_ts=start_ts, commit_ts=commit_ts)
        self._router.call_groups(keys, wire.KV_RESOLVE_LOCK, request, wire.decode_resolve, deadline)

    def scan_locks(self, keys: RawKeyRange, max_ts: TimeStamp, deadline: Deadline) -> list[Lock]:
        """Return the first locks of a range whose start_ts is at or below a timestamp.

        At most `SCAN_LOCKS` of each region, and none of the next regions if there are as many.
        """
        locks: list[Lock] = []
        left = keys.rest(keys.start)
        while left is not None and len(locks) < SCAN_LOCKS:
            request = partial(_scan_locks_request, left, max_ts)
            region, part = self._router.call(
                left.start, wire.KV_SCAN_LOCK, request, wire.decode_scan_locks, deadline
            )
            locks += part
            end = region.range.end
            left = left.rest(end) if end else None
        return locks

    def _resolve(
        self, before: ResolvedLocks, locks: Sequence[Lock], ts: TimeStamp, deadline: Deadline
    ) -> ResolvedLocks:
        """Resolve locks that block a read, and add them to those resolved before."""
        resolved = before | self.resolver.resolve(locks, ts, deadline)
        if resolved == before and not deadline.sleep_ms(RETRY_MS):
            # `Lock.blocks` is false for these locks, so a retry succeeds when they are gone.
            raise TiKVUnavailableError(
                "a snapshot read", "was blocked by locks that do not conflict with it"
            )
        return resolved


def _scan_locks_request(keys: RawKeyRange, max_ts: TimeStamp, region: LocatedRegion) -> Message:
    return wire.scan_locks_request(region.parts_of([keys])[0], max_ts, SCAN_LOCKS)


def _scan_request(keys: RawKeyRange, ts: TimeStamp, limit: int, region: LocatedRegion) -> Message:
    """Return a request for the part of a range in the region that contains its start."""
    return wire.scan_request(region.parts_of([keys])[0], ts, limit)


def _after_page(
    first: RawKey, last: RawKey, is_ordered: bool, requested: RawKeyRange, region: LocatedRegion
) -> RawKey:
    """Return the key after a page. Raises `TiKVRefusedError` if its keys are not as requested."""
    if not is_ordered or first not in requested or last not in requested:
        reason = "returned keys out of order or outside the requested range"
        raise TiKVRefusedError(f"region {region.id}", reason)
    return RawKey(last + b"\0")
