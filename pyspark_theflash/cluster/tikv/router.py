"""Send requests to the regions that contain their keys, and retry after region errors."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from google.protobuf.message import Message

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import CodecError, TiKVRefusedError, TiKVUnavailableError
from pyspark_theflash.cluster.located import LocatedRegion
from pyspark_theflash.cluster.resolve import ResolvedLocks
from pyspark_theflash.cluster.tikv.regions import RegionCache
from pyspark_theflash.cluster.tikv.stores import StoreConnections
from pyspark_theflash.cluster.tikv.wire.call import (
    Answer,
    ReadResult,
    RegionError,
    RegionFault,
    encode_request,
)
from pyspark_theflash.tidb.codec.key import RawKey

T = TypeVar("T")

RETRY_MS: Final = 20
_RETRY_MS_MAX: Final = 1000
_GROUP: Final = 1024
_NO_LOCKS: Final = ResolvedLocks()


class Router:
    """Calls regions. Methods raise the errors of `TiKVClient`, also for undecodable responses."""

    def __init__(self, regions: RegionCache, stores: StoreConnections) -> None:
        self._regions, self._stores = regions, stores

    def call(
        self,
        key: RawKey,
        method: str,
        request: Callable[[LocatedRegion], Message],
        decode: Callable[[bytes], Answer[T]],
        deadline: Deadline,
        resolved: ResolvedLocks = _NO_LOCKS,
    ) -> tuple[LocatedRegion, T]:
        """Call the region that contains a key; return the region and its result."""
        retry = _Retry(deadline)
        while True:
            region = self._regions.locate(key, deadline)
            value = self._attempt(region, method, request(region), decode, retry, resolved)
            if value is not None:
                return region, value

    def call_groups(
        self,
        keys: Sequence[RawKey],
        method: str,
        request: Callable[[Sequence[RawKey]], Message],
        decode: Callable[[int, bytes], Answer[T]],
        deadline: Deadline,
    ) -> list[T]:
        """Call each region with its keys; `decode` gets the number of keys and the response."""
        results: list[T] = []
        left, retry = sorted(keys), _Retry(deadline)
        while left:
            region = self._regions.locate(left[0], deadline)
            group = [key for key in left[:_GROUP] if key in region.range]
            answer_of = partial(decode, len(group))
            value = self._attempt(region, method, request(group), answer_of, retry, _NO_LOCKS)
            if value is not None:
                results.append(value)
                left = left[len(group) :]
        return results

    def call_once(
        self,
        region: LocatedRegion,
        method: str,
        request: Message,
        decode: Callable[[bytes], Answer[T]],
        deadline: Deadline,
        resolved: ResolvedLocks = _NO_LOCKS,
    ) -> Answer[T]:
        """Call a region's leader once. A region error updates the caches and is returned."""
        leader = region.leader
        if leader is None:
            self._regions.forget(region)
            return Answer(None, RegionError(RegionFault.NOT_LEADER, "has no leader"))
        encoded = encode_request(request, region, leader, resolved)
        try:
            store = self._stores.get(leader.store_id, deadline)
            data = self._stores.call(store, method, encoded, deadline)
        except TiKVUnavailableError as error:
            # The store may have another address, or the region another leader.
            self._stores.forget(leader.store_id)
            self._regions.forget(region)
            return Answer(None, RegionError(RegionFault.BUSY, str(error)))
        try:
            answer = decode(data)
        except CodecError as error:
            raise TiKVRefusedError(store.address, f"{method}: {error.reason}") from error
        failure = answer.region_error
        if isinstance(answer.value, ReadResult) and answer.value.failure:
            raise TiKVRefusedError(store.address, f"{method}: {answer.value.failure}")
        if failure is None:
            return answer
        if failure.fault is RegionFault.REFUSED:
            raise TiKVRefusedError(f"region {region.id}", failure.reason)
        if failure.fault is RegionFault.WRONG_STORE:
            self._stores.forget(leader.store_id)
        self._regions.failed(region, failure)
        return answer

    def _attempt(
        self,
        region: LocatedRegion,
        method: str,
        request: Message,
        decode: Callable[[bytes], Answer[T]],
        retry: "_Retry",
        resolved: ResolvedLocks,
    ) -> T | None:
        """Call a region once; after a region error, wait and return None."""
        answer = self.call_once(region, method, request, decode, retry.deadline, resolved)
        if answer.region_error is not None:
            retry.wait(region, answer.region_error)
        return answer.value


class _Retry:
    """Exponential backoff between attempts, until the deadline."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._wait_ms = 0

    def wait(self, region: LocatedRegion, error: RegionError) -> None:
        """Wait before the next attempt; not after the first error, unless the store is busy.

        Raises:
            TiKVUnavailableError: The deadline has passed.
        """
        wait_ms = max(self._wait_ms, error.backoff_ms)
        if error.fault is RegionFault.BUSY:
            wait_ms = max(wait_ms, RETRY_MS)
        self._wait_ms = max(RETRY_MS, min(2 * self._wait_ms, _RETRY_MS_MAX))
        if not self.deadline.sleep_ms(wait_ms):
            raise TiKVUnavailableError(f"region {region.id}", error.reason)
