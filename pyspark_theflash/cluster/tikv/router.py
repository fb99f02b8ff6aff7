"""Getting a request to the region that its keys are in, however often that changes meanwhile."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import CodecError, TiKVRefusedError, TiKVUnavailableError
from pyspark_theflash.cluster.located import LocatedRegion
from pyspark_theflash.cluster.resolve import ResolvedLocks
from pyspark_theflash.cluster.tikv.regions import RegionCache
from pyspark_theflash.cluster.tikv.stores import StoreConnections
from pyspark_theflash.cluster.tikv.wire.call import (
    Answer,
    Context,
    Found,
    RegionError,
    RegionFault,
    context_of,
)
from pyspark_theflash.tidb.codec.key import RawKey

T = TypeVar("T")

RETRY_MS: Final = 20
_RETRY_MS_MAX: Final = 1000
_GROUP: Final = 1024
_NO_LOCKS: Final = ResolvedLocks()


class Router:
    """Asks regions. Methods raise what `TiKVClient` says, for an answer's `CodecError` too."""

    def __init__(self, regions: RegionCache, stores: StoreConnections) -> None:
        self._regions, self._stores = regions, stores

    def ask(
        self,
        key: RawKey,
        method: str,
        encode: Callable[[Context, LocatedRegion], bytes],
        decode: Callable[[bytes], Answer[T]],
        deadline: Deadline,
        through: ResolvedLocks = _NO_LOCKS,
    ) -> tuple[LocatedRegion, T]:
        """The region that a key is in, and what it answers."""
        retry = _Retry(deadline)
        while True:
            region = self._regions.locate(key, deadline)
            value = self._attempt(region, method, encode, decode, retry, through)
            if value is not None:
                return region, value

    def ask_groups(
        self,
        keys: Sequence[RawKey],
        method: str,
        encode: Callable[[Context, Sequence[RawKey]], bytes],
        decode: Callable[[bytes, int], Answer[T]],
        deadline: Deadline,
        through: ResolvedLocks = _NO_LOCKS,
    ) -> list[tuple[list[RawKey], T]]:
        """What regions answer about keys, each about its own; `decode` is told how many."""
        answers: list[tuple[list[RawKey], T]] = []
        left, retry = sorted(keys), _Retry(deadline)
        while left:
            region = self._regions.locate(left[0], deadline)
            group = [key for key in left[:_GROUP] if key in region.range]
            value = self._attempt(
                region,
                method,
                partial(_encode_group, encode, group),
                partial(_decode_group, decode, len(group)),
                retry,
                through,
            )
            if value is not None:
                answers.append((group, value))
                left = left[len(group) :]
        return answers

    def ask_once(
        self,
        region: LocatedRegion,
        method: str,
        encode: Callable[[Context, LocatedRegion], bytes],
        decode: Callable[[bytes], Answer[T]],
        deadline: Deadline,
        through: ResolvedLocks = _NO_LOCKS,
    ) -> Answer[T]:
        """What a region answers. An error of the region comes back, and is learned from."""
        leader = region.leader
        if leader is None:
            self._regions.forget(region)
            return Answer(None, RegionError(RegionFault.NOT_LEADER, "has no leader"))
        request = encode(context_of(region, leader, through), region)
        try:
            store = self._stores.get(leader.store_id, deadline)
            data = self._stores.call(store, method, request, deadline)
        except TiKVUnavailableError as error:
            # The store may be elsewhere, and the region led by another.
            self._stores.forget(leader.store_id)
            self._regions.forget(region)
            return Answer(None, RegionError(RegionFault.BUSY, str(error)))
        try:
            answer = decode(data)
        except CodecError as error:
            raise TiKVRefusedError(store.address, f"{method}: {error.reason}") from error
        failure = answer.region_error
        if isinstance(answer.value, Found) and answer.value.failure:
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
        encode: Callable[[Context, LocatedRegion], bytes],
        decode: Callable[[bytes], Answer[T]],
        retry: "_Retry",
        through: ResolvedLocks,
    ) -> T | None:
        """What the region answers; None if it is to be asked again, for which it is time now."""
        answer = self.ask_once(region, method, encode, decode, retry.deadline, through)
        if answer.region_error is not None:
            retry.wait(region, answer.region_error)
        return answer.value


def _encode_group(
    encode: Callable[[Context, Sequence[RawKey]], bytes],
    group: Sequence[RawKey],
    context: Context,
    _: LocatedRegion,
) -> bytes:
    return encode(context, group)


def _decode_group(decode: Callable[[bytes, int], Answer[T]], asked: int, data: bytes) -> Answer[T]:
    return decode(data, asked)


class _Retry:
    """Waits between tries, longer each time, until the deadline."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._wait_ms = 0

    def wait(self, region: LocatedRegion, error: RegionError) -> None:
        """The first time that a region has moved, the next try is made at once.

        Raises:
            TiKVUnavailableError: the time is up.
        """
        wait_ms = max(self._wait_ms, error.backoff_ms)
        if error.fault is RegionFault.BUSY:
            wait_ms = max(wait_ms, RETRY_MS)
        self._wait_ms = max(RETRY_MS, min(2 * self._wait_ms, _RETRY_MS_MAX))
        if not self.deadline.sleep_ms(wait_ms):
            raise TiKVUnavailableError(f"region {region.id}", error.reason)
