"""A client of TiKV's change feed, for tests, that checks the rules of the protocol.

    with Follower(pd, peer.kv_address, spans, checkpoint_ts=ts, multiplexed=True) as follower:
        follower.follow_to(later_ts, deadline)
        follower.at(later_ts)        # key -> value
        follower.changes             # (key, commit_ts) -> Change

Shares no code with the feed of the package. An `AssertionError` means that the store broke a rule.
"""

import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.wire.directory import Directory
from pyspark_theflash.net.channel import grpc, open_channel
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2, metapb_pb2

Row = cdcpb_pb2.Event.Row
VERSION: Final = "8.5.0"
_MAX_BYTES: Final = 256 << 20
_POLL_S: Final = 0.2
_RETRY_MS: Final = 50


class Stream:
    """One EventFeed call. Messages arrive in `received`, and at the end the gRPC error or None."""

    def __init__(
        self, address: str, *, multiplexed: bool = False, features: str = "stream-multiplexing"
    ) -> None:
        """Open a stream: EventFeedV2 if it is multiplexed."""
        self._channel = open_channel(address, None, max_message_bytes=_MAX_BYTES)
        self._requests: queue.SimpleQueue[cdcpb_pb2.ChangeDataRequest | None] = queue.SimpleQueue()
        self.received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        method = "EventFeedV2" if multiplexed else "EventFeed"
        self._call = self._channel.stream_stream(
            f"/cdcpb.ChangeData/{method}",
            request_serializer=cdcpb_pb2.ChangeDataRequest.SerializeToString,
            response_deserializer=cdcpb_pb2.ChangeDataEvent.FromString,
        )(
            iter(self._requests.get, None),
            metadata=[("features", features)] if multiplexed else None,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def register(
        self,
        cluster_id: int,
        region: LocatedRegion,
        checkpoint_ts: int,
        keys: RawKeyRange | None = None,
        *,
        request_id: int = 0,
        version: str = VERSION,
        **fields: Any,
    ) -> None:
        """Subscribe a region, or the part of it in a range."""
        keys = region.range if keys is None else keys
        epoch = metapb_pb2.RegionEpoch(conf_ver=region.epoch.conf_ver, version=region.epoch.version)
        request = cdcpb_pb2.ChangeDataRequest(
            header=cdcpb_pb2.Header(cluster_id=cluster_id, ticdc_version=version),
            region_id=region.id,
            region_epoch=epoch,
            checkpoint_ts=checkpoint_ts,
            start_key=encode_bytes(keys.start) if keys.start else b"",
            end_key=encode_bytes(keys.end) if keys.end else b"",
            request_id=request_id,
            register=cdcpb_pb2.ChangeDataRequest.Register(),
            **fields,
        )
        self._requests.put(request)

    def deregister(self, request_id: int, region_id: int = 0) -> None:
        """End the feed of a region, or of all that have the request id."""
        request = cdcpb_pb2.ChangeDataRequest(request_id=request_id, region_id=region_id)
        request.deregister.SetInParent()
        self._requests.put(request)

    def half_close(self) -> None:
        """End the requests."""
        self._requests.put(None)

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._reader.join()
        self._channel.close()

    def _read(self) -> None:
        try:
            for event in self._call:
                self.received.put(event)
        except grpc.RpcError as error:
            self.received.put(error)
        else:
            self.received.put(None)


@dataclass(frozen=True)
class Change:
    """A committed change; `value` is None for a deletion."""

    start_ts: int
    value: bytes | None
    old_value: bytes


@dataclass
class _Feed:
    span: int
    region: LocatedRegion
    keys: RawKeyRange
    checkpoint_ts: int
    resolved_ts: int
    initialized: bool = False
    prewrites: dict[tuple[bytes, int], Row] = field(default_factory=dict)
    # Rows received before INITIALIZED that have no prewrite yet.
    early: list[Row] = field(default_factory=list)


class Follower:
    """Follows ranges of keys through splits, errors and cut streams.

    Each span has its own request id, and its own stream without multiplexing.
    """

    def __init__(
        self,
        pd: PDClient,
        address: str,
        spans: Sequence[RawKeyRange],
        *,
        checkpoint_ts: int,
        multiplexed: bool,
    ) -> None:
        """Prepare; `follow_to` subscribes."""
        self._pd, self._address, self._multiplexed = pd, address, multiplexed
        self._directory = Directory(pd)
        self._streams: dict[int, Stream] = {}
        self._feeds: dict[tuple[int, int], _Feed] = {}
        self._waiting = [(span, keys, checkpoint_ts) for span, keys in enumerate(spans)]
        self.changes: dict[tuple[bytes, int], Change] = {}
        self.frontier = checkpoint_ts
        # Number of errors by name and of rows by type.
        self.seen: Counter[str] = Counter()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stream in self._streams.values():
            stream.close()

    def follow_to(self, ts: int, deadline: Deadline) -> None:
        """Receive until no change at or below a timestamp can be missing."""
        while self.frontier < ts:
            assert deadline.left_ms(), f"frontier {self.frontier} < {ts}: {self.seen}"
            self._subscribe(deadline)
            self.poll()

    def poll(self) -> None:
        """Receive what has arrived, and wait a moment for the first message."""
        for number, stream in list(self._streams.items()):
            timeout = _POLL_S / len(self._streams)
            while True:
                try:
                    message = stream.received.get(timeout=timeout)
                except queue.Empty:
                    break
                timeout = 0
                if message is None or isinstance(message, grpc.RpcError):
                    self._lose(number)
                    break
                self._take(number, message)
        if not self._waiting:
            lowest = min(feed.resolved_ts for feed in self._feeds.values())
            self.frontier = max(self.frontier, lowest)

    def at(self, ts: int, keys: RawKeyRange) -> dict[RawKey, bytes]:
        """Return the keys of a range that exist at a timestamp, up to the frontier."""
        assert ts <= self.frontier
        newest: dict[bytes, tuple[int, bytes | None]] = {}
        for (key, commit_ts), change in self.changes.items():
            if (
                commit_ts <= ts
                and RawKey(key) in keys
                and newest.get(key, (0, None))[0] < commit_ts
            ):
                newest[key] = (commit_ts, change.value)
        return {RawKey(k): v for k, (_, v) in sorted(newest.items()) if v is not None}

    def _subscribe(self, deadline: Deadline) -> None:
        waiting, self._waiting = self._waiting, []
        for span, keys, checkpoint_ts in waiting:
            for region, part in self._cover(keys, deadline):
                number = 0 if self._multiplexed else span
                if number not in self._streams:
                    self._streams[number] = Stream(self._address, multiplexed=self._multiplexed)
                identity = (span + 1, region.id)
                if identity in self._feeds:
                    # PD has not received a split yet.
                    self._waiting.append((span, part, checkpoint_ts))
                    continue
                self._feeds[identity] = _Feed(span, region, part, checkpoint_ts, checkpoint_ts)
                self._streams[number].register(
                    self._pd.cluster_id(), region, checkpoint_ts, part, request_id=span + 1
                )

    def _cover(
        self, keys: RawKeyRange, deadline: Deadline
    ) -> Iterator[tuple[LocatedRegion, RawKeyRange]]:
        left: RawKeyRange | None = keys
        while left is not None:
            region = self._directory.region_of(left.start, deadline)
            if region is None or left.start not in region.range:
                assert deadline.sleep_ms(_RETRY_MS), f"PD has no region at {left.start.hex()}"
                continue
            part = left.clip(region.range.start, region.range.end)
            assert part is not None
            yield region, part
            left = left.rest(region.range.end) if region.range.end else None

    def _lose(self, number: int) -> None:
        """Forget a stream that has ended; its feeds are subscribed again."""
        self.seen["lost stream"] += 1
        self._streams.pop(number).close()
        for identity, feed in list(self._feeds.items()):
            if self._multiplexed or feed.span == number:
                self._drop(identity)

    def _drop(self, identity: tuple[int, int]) -> None:
        feed = self._feeds.pop(identity)
        self._waiting.append((feed.span, feed.keys, feed.resolved_ts))

    def _take(self, number: int, message: cdcpb_pb2.ChangeDataEvent) -> None:
        assert not (message.events and message.HasField("resolved_ts"))
        for event in message.events:
            identity = (event.request_id, event.region_id)
            kind = event.WhichOneof("event")
            assert identity in self._feeds, f"a {kind} of {identity}, which is not subscribed"
            if kind == "error":
                self.seen[event.error.ListFields()[0][0].name] += 1
                self._drop(identity)
                continue
            assert kind == "entries"
            assert event.entries.entries, "no rows"
            for row in event.entries.entries:
                self._take_row(self._feeds[identity], row)
        for region_id in message.resolved_ts.regions:
            request_id = message.resolved_ts.request_id if self._multiplexed else number + 1
            feed = self._feeds[request_id, region_id]
            assert feed.initialized, f"resolved_ts of region {region_id} before INITIALIZED"
            feed.resolved_ts = max(feed.resolved_ts, message.resolved_ts.ts)

    def _take_row(self, feed: _Feed, row: Row) -> None:
        self.seen[Row_Type.Name(row.type)] += 1
        identity = (row.key, row.start_ts)
        if row.type == Row_Type.INITIALIZED:
            self._initialize(feed)
        elif RawKey(row.key) not in feed.region.range:
            raise AssertionError(f"{row.key.hex()} is not in region {feed.region.id}")
        elif RawKey(row.key) not in feed.keys:
            # TiKV v6.5 sends the whole region.
            self.seen["row out of range"] += 1
            assert not self._multiplexed
        elif row.type == Row_Type.PREWRITE:
            assert row.value or row.op_type == Row.OpType.DELETE
            feed.prewrites[identity] = row
        elif row.type == Row_Type.COMMITTED:
            self._commit(feed, row, row)
        elif identity not in feed.prewrites:
            # A rollback without a prewrite has no effect.
            assert row.type == Row_Type.ROLLBACK or not feed.initialized, f"no prewrite: {row}"
            if not feed.initialized:
                feed.early.append(row)
        else:
            self._finish(feed, row)

    def _initialize(self, feed: _Feed) -> None:
        assert not feed.initialized
        feed.initialized = True
        for row in feed.early:
            if (row.key, row.start_ts) in feed.prewrites:
                self._finish(feed, row)
            elif row.type == Row_Type.COMMIT and row.commit_ts > feed.checkpoint_ts:
                assert (row.key, row.commit_ts) in self.changes, f"not in the scan: {row}"
        feed.early.clear()

    def _finish(self, feed: _Feed, row: Row) -> None:
        prewrite = feed.prewrites.pop((row.key, row.start_ts))
        if row.type == Row_Type.COMMIT:
            assert row.op_type == prewrite.op_type
            assert row.value in {b"", prewrite.value}
            self._commit(feed, prewrite, row)

    def _commit(self, feed: _Feed, content: Row, commit: Row) -> None:
        assert commit.start_ts < commit.commit_ts
        if commit.commit_ts <= feed.checkpoint_ts == feed.resolved_ts:
            # In flight at the subscription, at or below the requested timestamp.
            return
        assert commit.commit_ts > feed.resolved_ts, f"at or below {feed.resolved_ts}: {commit}"
        is_delete = content.op_type == Row.OpType.DELETE
        assert is_delete or (content.op_type == Row.OpType.PUT and content.value)
        change = Change(commit.start_ts, None if is_delete else content.value, content.old_value)
        earlier = self.changes.setdefault((commit.key, commit.commit_ts), change)
        assert earlier == change, f"sent twice and differently: {earlier} {change}"


Row_Type: Final = cdcpb_pb2.Event.LogType


def soon(timeout_ms: int = 60_000) -> Deadline:
    return Deadline(SystemClock(), timeout_ms)
