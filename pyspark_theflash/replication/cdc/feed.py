"""TiKV's change feed: requests to regions over one stream per store, and received events.

    span        subscribed keys; its pieces have the progress               spans.py
    request     locks pieces in one region, and receives their events       requests.py
    stream      to a store, with the requests to regions that it leads      streams.py
    changes     are matched and buffered, until they are taken              received.py

`poll` requests the pieces that no request has locked, receives, and checks for requests that have
fallen silent. Every failure ends requests and releases their pieces, which are looked up and
requested again from their own progress, after a pause that depends on the failure. So nothing is
missed, and until then the pieces hold the frontier.

    NotLeader, EpochNotMatch        the region cache is updated from the error
    RegionNotFound                  the region is looked up in PD
    ServerIsBusy, Congested         longer pauses
    DuplicateRequest                the stream is closed
    the stream ends                 all of its requests end
    a commit without its prewrite   the request ends, once for each contradiction
    no progress for `silent_ms`     the request ends; TiKV reports progress every second, even if
                                    locks hold it
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import (
    ChangeFeedError,
    ClusterMismatchError,
    CodecError,
    RegionGapError,
    ServiceUnavailableError,
    TiKVRefusedError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.tikv.wire.call import RegionError, RegionFault
from pyspark_theflash.replication.cdc.backoff import after_error, after_stream
from pyspark_theflash.replication.cdc.change_feed import FeedState, Taken
from pyspark_theflash.replication.cdc.matcher import Matcher
from pyspark_theflash.replication.cdc.received import ReceivedChanges
from pyspark_theflash.replication.cdc.requests import RegionRequest, StoreLink
from pyspark_theflash.replication.cdc.spans import Spans
from pyspark_theflash.replication.cdc.streams import Stream, StreamEnd, Streams
from pyspark_theflash.replication.cdc.wire import (
    FeedError,
    FeedFault,
    RegionsProgress,
    decode_changes,
    decode_frames,
    deregister_request,
    register_request,
)

_log = logging.getLogger(__name__)

LOOKUP_MS, LOOKUP_MAX_MS = 1000, 16_000
"""The time for lookups of regions in a poll, and after failures; meanwhile nothing is received."""
_CHECK_MS: Final = 2000
_IDLE_MS: Final = 60_000
_CONTRADICTIONS_MAX: Final = 100
_STREAMS_MAX: Final = 4
"""Streams of EventFeed to one store."""


class RegionLookup(Protocol):
    """The regions of the cluster; implemented by `cluster.tikv.regions.RegionCache`."""

    def cover(
        self, ranges: Iterable[RawKeyRange], deadline: Deadline
    ) -> list[tuple[LocatedRegion, list[RawKeyRange]]]:
        """Return regions that cover ranges, each with its intersections."""

    def forget(self, region: LocatedRegion) -> None:
        """Look a region up in PD next time."""

    def failed(self, region: LocatedRegion, error: RegionError) -> None:
        """Update the cache after an error."""


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """Times and sizes."""

    silent_ms: int = 60_000
    """A request ends if its region reports no progress for so long."""
    scan_silent_ms: int = 600_000
    """A request ends if nothing of its scan arrives for so long."""
    locked_ms: int = 10_000
    """A region's locks are checked if its resolved_ts stays the same for so long."""
    prewrite_bytes: int = 128 << 20
    """Memory of prewrites; above it, large transactions are written to temporary files."""
    large_bytes: int = 4 << 20
    """The smallest transaction (its part in one region) that is written to a file."""


class TiKVChangeFeed:
    """The `ChangeFeed` of a cluster. `unlock` is called for keys whose locks hold the frontier."""

    def __init__(
        self,
        regions: RegionLookup,
        streams: Streams,
        cluster_id: int,
        *,
        clock: Clock,
        unlock: Callable[[RawKeyRange], None] | None = None,
        folder: Path | None = None,
        limits: FeedLimits = FeedLimits(),
    ) -> None:
        """Create a feed without spans. `folder` is for temporary files."""
        self._regions, self._streams, self._cluster_id = regions, streams, cluster_id
        self._clock, self._unlock, self._limits = clock, unlock, limits
        self._spans = Spans()
        self._received = ReceivedChanges(folder, limits.prewrite_bytes, limits.large_bytes)
        self._links: dict[Stream, StoreLink] = {}
        self._is_old: set[int] = set()  # stores without EventFeedV2
        self._owner = 0
        self._contradictions = set[tuple[object, ...]]()
        self._lookup_ms = LOOKUP_MS
        self._polled_ms = self._checked_ms = clock.boottime_ms()

    # The interface.

    @property
    def resolved_ts(self) -> TimeStamp:
        return self._spans.resolved_ts

    def subscribe(self, span: RawKeyRange, checkpoint_ts: TimeStamp) -> None:
        self._spans.add(span, checkpoint_ts)

    def unsubscribe(self, span: RawKeyRange) -> None:
        ended = set(self._spans.remove(span))
        for link in list(self._links.values()):
            for request in link.live():
                if request.lock in ended:
                    self._cancel(request)
                else:
                    request.matcher.keep(request.lock.pieces)
        self._received.remove(span)

    def poll(self, timeout_ms: int) -> None:
        now = self._clock.boottime_ms()
        self._resumed(now)
        self._request_free(now)
        due_ms = self._spans.next_due_ms()
        if due_ms is not None:
            timeout_ms = min(timeout_ms, max(0, due_ms - now))
        received = defaultdict[Stream, list[bytes | StreamEnd]](list)
        for stream, item in self._streams.receive(timeout_ms):
            received[stream].append(item)
        for stream, items in received.items():
            link = self._links.get(stream)
            if link is None:
                continue  # closed meanwhile
            self._frames(link, [item for item in items if isinstance(item, bytes)])
            if isinstance(items[-1], StreamEnd) and stream in self._links:
                self._stream_ended(link, items[-1])
        self._received.seal()
        self._watch()
        self._polled_ms = self._clock.boottime_ms()

    def take(self, up_to: TimeStamp) -> Taken:
        return self._received.take(up_to)

    def close(self) -> None:
        self._links.clear()
        self._streams.close()

    @property
    def state(self) -> FeedState:
        requests = [each for link in list(self._links.values()) for each in link.live()]
        streaming = sum(each.matcher.is_initialized for each in requests)
        return FeedState(
            streaming,
            len(requests) - streaming,
            self._spans.free_count,
            self._received.buffer_bytes,
            self._received.pending_bytes,
            self._received.file_bytes,
        )

    # Requests.

    def _request_free(self, now: int) -> None:
        """RegionRequest the pieces that are not locked and are due."""
        deadline, lookup_ms = Deadline(self._clock, self._lookup_ms), 0
        free = self._spans.free(now)
        if len(free) > 1:
            # Fills the cache with few calls to PD; every piece has an error of its own below.
            with suppress(ServiceUnavailableError, RegionGapError):
                self._regions.cover(free, Deadline(self._clock, self._lookup_ms // 2))
        for keys in free:
            if not deadline.left_ms():
                break
            try:
                for region, _ in self._regions.cover([keys], deadline):
                    self._request(region, now, deadline)
                lookup_ms = lookup_ms or LOOKUP_MS
            except (ServiceUnavailableError, RegionGapError) as error:
                _log.warning("keys from %s cannot be requested: %s", keys.start[:9].hex(), error)
                self._spans.postpone(keys.start, self._clock.boottime_ms(), after_stream)
                lookup_ms = min(2 * self._lookup_ms, LOOKUP_MAX_MS)
        self._lookup_ms = lookup_ms or self._lookup_ms

    def _request(self, region: LocatedRegion, now: int, deadline: Deadline) -> None:
        if region.leader is None:
            self._regions.forget(region)
            return
        lock = self._spans.lock(region.range, now)
        if lock is None:
            return  # another range of the region was requested together with this one
        try:
            link, request_id = self._link(region.leader.store_id, region.id, deadline)
        except ServiceUnavailableError:
            self._spans.unlock(lock, now + after_stream(lock.failures))
            raise
        self._owner += 1
        matcher = Matcher(lock.pieces, lock.checkpoint_ts)
        advanced_ms = min(piece.advanced_ms or now for piece in lock.pieces)
        request = RegionRequest(
            self._owner, region, request_id, link, lock, matcher, now, advanced_ms
        )
        link.requests[region.id, request_id] = request
        link.stream.send(
            register_request(
                self._cluster_id,
                region.id,
                region.epoch,
                request_id,
                lock.hull,
                lock.checkpoint_ts,
            )
        )

    def _link(self, store_id: int, region_id: int, deadline: Deadline) -> tuple[StoreLink, int]:
        """Return a stream to a store, and a free request id of a region in it."""
        links = [each for each in self._links.values() if each.stream.store_id == store_id]
        for link in links:
            request_id = link.free_id(region_id)
            if request_id is not None:
                return link, request_id
        if len(links) >= _STREAMS_MAX:
            for link in links[1:]:
                self._close(link, "requests are joined", is_failure=False)
        stream = self._streams.open(store_id, deadline, is_multiplexed=store_id not in self._is_old)
        link = self._links[stream] = StoreLink(stream, used_ms=self._clock.boottime_ms())
        return link, 1 if stream.is_multiplexed else 0

    def _cancel(self, request: RegionRequest) -> None:
        """End a request whose pieces are released; TiKV confirms with an error."""
        link, key = request.link, (request.region.id, request.request_id)
        link.requests[key] = None
        self._forget(request)
        if link.stream.is_multiplexed:
            link.stream.send(deregister_request(self._cluster_id, *key))

    def _cancel_and_release(self, request: RegionRequest) -> None:
        """End a request, and release its pieces after a pause."""
        self._cancel(request)
        self._regions.forget(request.region)
        due_ms = self._clock.boottime_ms() + after_stream(request.lock.failures)
        self._spans.unlock(request.lock, due_ms)

    def _end(self, request: RegionRequest, wait_ms: int, *, is_failure: bool = True) -> None:
        """Release the pieces of a request that sends nothing any more."""
        due_ms = self._clock.boottime_ms() + wait_ms
        self._forget(request)
        self._spans.unlock(request.lock, due_ms, is_failure=is_failure)

    def _forget(self, request: RegionRequest) -> None:
        for piece in request.lock.pieces:
            piece.advanced_ms = request.advanced_ms
        self._received.end(request.owner, request.matcher, request.lock.resolved_ts)

    def _close(self, link: StoreLink, reason: str, *, is_failure: bool = True) -> None:
        """Close a stream and end its requests."""
        del self._links[link.stream]
        link.stream.close()
        for request in link.live():
            wait_ms = after_stream(request.lock.failures) if is_failure else 0
            self._end(request, wait_ms, is_failure=is_failure)
            if is_failure:
                self._regions.forget(request.region)
        _log.info("closed a stream to store %s: %s", link.stream.store_id, reason)

    # Received messages.

    def _frames(self, link: StoreLink, frames: Sequence[bytes]) -> None:
        """Process messages of a stream. The changes of a request are matched together."""
        now, requests = self._clock.boottime_ms(), link.requests
        received = dict[RegionRequest, list[bytes]]()
        try:
            for item in decode_frames(frames):
                if isinstance(item, RegionsProgress):
                    if not self._match(link, received, now):
                        return
                    self._progress(link, item, now)
                    continue
                region_id, request_id, content = item
                if isinstance(content, FeedError):
                    if not self._match(link, received, now):
                        return
                    self._error(link, region_id, request_id, content)
                    if link.stream not in self._links:
                        return
                    continue
                request = requests.get((region_id, request_id))
                if request in received:
                    received[request] += content
                elif request is not None:
                    received[request] = list(content)
            self._match(link, received, now)
        except CodecError as error:
            raise TiKVRefusedError(link.stream.address, f"the change feed: {error}") from error

    def _match(self, link: StoreLink, received: dict[RegionRequest, list[bytes]], now: int) -> bool:
        """Match changes, and clear the dictionary; return whether the stream is still open."""
        for request, parts in received.items():
            self._add(request, parts, now)
            if link.stream not in self._links:
                return False
        received.clear()
        return True

    def _add(self, request: RegionRequest, parts: Iterable[bytes], now: int) -> None:
        error: ChangeFeedError | None = None
        matcher = request.matcher
        was_scanning = not matcher.is_initialized
        try:
            self._received.add(request.owner, matcher, decode_changes(parts))
        except ChangeFeedError as raised:
            error = raised
        request.heard_ms = now
        if was_scanning and matcher.is_initialized:
            self._spans.succeed(request.lock)
        if error is not None:
            self._contradicted(request, error)
        elif self._received.is_full:
            links = self._links.values()
            self._received.spill([each.matcher for link in links for each in link.live()])

    def _contradicted(self, request: RegionRequest, error: ChangeFeedError) -> None:
        """End a request whose events contradict each other; the next one scans its changes again.

        Raises the error if it is not the first one of these events, or there were many.
        """
        if error.args in self._contradictions or len(self._contradictions) >= _CONTRADICTIONS_MAX:
            raise error
        self._contradictions.add(error.args)
        _log.warning("region_id=%s is requested again: %s", request.region.id, error)
        if request.link.stream.is_multiplexed:
            self._cancel_and_release(request)
        else:
            self._close(request.link, "events contradict each other")

    def _progress(self, link: StoreLink, progress: RegionsProgress, now: int) -> None:
        resolved_ts, request_id = progress.resolved_ts, progress.request_id
        for region_id in progress.region_ids:
            request = link.requests.get((region_id, request_id))
            if request is None:
                continue
            request.has_progress = True
            request.heard_ms = now
            is_accepted = self._received.advance(request.matcher, resolved_ts)
            if is_accepted and resolved_ts > request.lock.resolved_ts:
                request.advanced_ms = now
                self._spans.advance(request.lock, resolved_ts)

    def _error(self, link: StoreLink, region_id: int, request_id: int, error: FeedError) -> None:
        request = link.requests.pop((region_id, request_id), None)
        if request is None:
            return  # the end of a canceled request is confirmed
        where = f"store {link.stream.store_id} at {link.stream.address}"
        if error.fault is FeedFault.OTHER_CLUSTER:
            raise ClusterMismatchError(where, error.cluster_id, self._cluster_id)
        if error.fault is FeedFault.INCOMPATIBLE:
            raise TiKVRefusedError(where, error.reason)
        _log.info("region_id=%s: %s %s", region_id, where, error.reason)
        self._end(request, after_error(error, request.lock.failures))
        if error.fault is FeedFault.NOT_LEADER:
            self._regions.failed(request.region, _region_error(RegionFault.NOT_LEADER, error))
        elif error.fault is FeedFault.MOVED:
            self._regions.failed(request.region, _region_error(RegionFault.MOVED, error))
        elif error.fault is FeedFault.DUPLICATE:
            self._close(link, error.reason)
        elif error.fault is FeedFault.UNKNOWN:
            self._regions.forget(request.region)

    def _stream_ended(self, link: StoreLink, end: StreamEnd) -> None:
        store_id = link.stream.store_id
        if end.is_refused:
            raise TiKVRefusedError(link.stream.address, end.reason)
        if end.is_unimplemented and not link.stream.is_multiplexed:
            raise TiKVRefusedError(link.stream.address, f"has no change feed: {end.reason}")
        if end.is_unimplemented:
            self._is_old.add(store_id)
        else:
            self._is_old.discard(store_id)  # it may be upgraded
        self._close(link, end.reason, is_failure=not end.is_unimplemented)

    # Silent requests and locks.

    def _resumed(self, now: int) -> None:
        """Do not count the time between two polls, when nothing was received, as silence."""
        paused_ms = now - self._polled_ms
        if paused_ms >= _CHECK_MS:
            for link in self._links.values():
                for request in link.live():
                    request.heard_ms += paused_ms
                    request.advanced_ms += paused_ms

    def _watch(self) -> None:
        """End requests that have fallen silent, and check locks that hold the frontier."""
        now, limits = self._clock.boottime_ms(), self._limits
        if now - self._checked_ms < _CHECK_MS:
            return
        self._checked_ms = now
        for link in list(self._links.values()):
            requests = link.live()
            silent = []
            for request in requests:
                is_live = request.matcher.is_initialized
                limit_ms = limits.silent_ms if is_live else limits.scan_silent_ms
                if now - request.heard_ms >= limit_ms:
                    silent.append(request)
            if requests:
                link.used_ms = now
            elif now - link.used_ms >= _IDLE_MS:
                self._close(link, "idle", is_failure=False)
            if silent:
                self._end_silent(link, silent, is_all=len(silent) == len(requests))
        self._check_locks(now)

    def _end_silent(self, link: StoreLink, silent: list[RegionRequest], *, is_all: bool) -> None:
        first = silent[0]
        _log.warning(
            "region_id=%s and %s others of store %s have reported nothing for %s ms",
            first.region.id,
            len(silent) - 1,
            link.stream.store_id,
            self._clock.boottime_ms() - first.heard_ms,
        )
        if is_all or not link.stream.is_multiplexed:
            self._close(link, "regions are silent")
            return
        for request in silent:
            self._cancel_and_release(request)

    def _check_locks(self, now: int) -> None:
        """Check the locks of regions whose progress has stopped, the slowest first, for some time.

        The time of earlier requests counts: they may end sooner than `locked_ms`, again and again.
        TiKV reports the progress of the slowest regions of a store as their minimum, so all of them
        stop with the one that has the lock.
        """
        if self._unlock is None:
            return
        stopped = [
            each
            for link in self._links.values()
            for each in link.live()
            if each.matcher.is_initialized
            and each.has_progress
            and now - each.advanced_ms >= self._limits.locked_ms
        ]
        for request in sorted(stopped, key=lambda each: each.lock.resolved_ts):
            request.advanced_ms = now  # before the next check
            self._unlock(request.lock.hull)
            if self._clock.boottime_ms() - now >= _CHECK_MS:
                return


def _region_error(fault: RegionFault, error: FeedError) -> RegionError:
    return RegionError(fault, error.reason, error.leader, error.regions)
