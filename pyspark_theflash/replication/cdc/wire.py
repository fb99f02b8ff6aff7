"""Messages of TiKV's ChangeData service."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby, repeat
from typing import Final, Protocol, TypeAlias

from pyspark_theflash.base.types import RegionEpoch, RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.tikv.wire.directory import peer_from, region_from
from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2, metapb_pb2
from pyspark_theflash.tidb.protocol.message import parse_message

EVENT_FEED: Final = "/cdcpb.ChangeData/EventFeed"
EVENT_FEED_V2: Final = "/cdcpb.ChangeData/EventFeedV2"
MULTIPLEXING: Final = (("features", "stream-multiplexing"),)
"""Metadata of `EVENT_FEED_V2`: a region may have several requests in a stream."""
_VERSION: Final = "8.5.0"
"""TiKV compares it with 4.0.8, for one message with the progress of many regions, and with 5.3.0,
for the check of the cluster id."""

PREWRITE: Final = cdcpb_pb2.Event.LogType.PREWRITE
COMMIT: Final = cdcpb_pb2.Event.LogType.COMMIT
ROLLBACK: Final = cdcpb_pb2.Event.LogType.ROLLBACK
COMMITTED: Final = cdcpb_pb2.Event.LogType.COMMITTED
INITIALIZED: Final = cdcpb_pb2.Event.LogType.INITIALIZED
PUT: Final = cdcpb_pb2.Event.Row.OpType.PUT
DELETE: Final = cdcpb_pb2.Event.Row.OpType.DELETE
_EVENTS_TAG: Final = b"\x0a"
"""The first byte of a ChangeDataEvent with events."""


class FeedFault(Enum):
    """Kinds of errors that end a request, by how the client handles them."""

    NOT_LEADER = "another peer is the leader"
    MOVED = "the region has changed"
    BUSY = "the store has too many scans to do"
    CONGESTED = "changes were not received fast enough"
    DUPLICATE = "the region is subscribed already"
    OTHER_CLUSTER = "the store belongs to another cluster"
    INCOMPATIBLE = "the store requires another version"
    UNKNOWN = "an error without a name"


@dataclass(frozen=True, slots=True)
class FeedError:
    """The error that ended a request. `leader` and `regions` are set if the store reports them."""

    fault: FeedFault
    reason: str
    leader: LocatedPeer | None = None
    regions: tuple[LocatedRegion, ...] = ()
    backoff_ms: int = 0
    cluster_id: int = 0


class RowEvent(Protocol):
    """A change of a key, as generated code reads it.

    `type` is `PREWRITE` to `INITIALIZED`, or another of a newer TiKV. `op_type` is `PUT` or
    `DELETE`; 0 in a rollback.
    """

    @property
    def type(self) -> int: ...
    @property
    def op_type(self) -> int: ...
    @property
    def start_ts(self) -> int: ...
    @property
    def commit_ts(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class RegionsProgress:
    """A resolved_ts of several regions. `request_id` is 0 if a region has one request a stream."""

    region_ids: Sequence[int]
    resolved_ts: TimeStamp
    request_id: int


Event: TypeAlias = tuple[int, int, Sequence[bytes] | FeedError]
"""(region id, request id, encoded changes or the error that ended the request)."""


def decode_frames(frames: Iterable[bytes]) -> Iterator[Event | RegionsProgress]:
    """Decode ChangeDataEvents of one stream, in the order of the contents of each request.

    Most of them have one event, and parsing them together, as columns, takes a fraction of the
    time. It would mix up progress of regions, which TiKV sends in a message of its own.

    Raises:
        CodecError: A frame is no such message.
    """
    for has_events, group in groupby(frames, lambda frame: frame[:1] == _EVENTS_TAG):
        together = list(group)
        if has_events and (columns := _columns(b"".join(together))) is not None:
            yield from columns
            continue
        for frame in together:
            yield from _items(parse_message(cdcpb_pb2.PackedEvents, frame))


def _columns(frames: bytes) -> Iterator[Event] | None:
    """Decode concatenated ChangeDataEvents; None if there is anything but events with changes.

    Those of one request are joined. Each event has a region, and at most one of changes, error and
    progress. So if there are as many changes as regions and nothing else, each has changes.
    """
    message = parse_message(cdcpb_pb2.EventColumns, frames)
    events = message.events
    # Lists, since iterating over a repeated field is slower than copying it.
    regions, requests, entries = events.region_id[:], events.request_id[:], events.entries[:]
    has_more = message.HasField("resolved_ts") or events.error or events.resolved_ts
    # EventFeed has no request ids.
    if has_more or len(regions) != len(entries) or len(requests) not in (0, len(entries)):
        return None
    changes = defaultdict[tuple[int, int], list[bytes]](list)
    keys = zip(regions, requests or repeat(0), strict=False)
    for request, each in zip(keys, entries, strict=True):
        changes[request].append(each)
    return ((*request, parts) for request, parts in changes.items())


def _items(message: cdcpb_pb2.PackedEvents) -> Iterator[Event | RegionsProgress]:
    for event in message.events:
        if entries := event.entries:
            yield event.region_id, event.request_id, [entries]
        elif event.HasField("error"):
            yield event.region_id, event.request_id, _error(event.error)
        elif event.HasField("resolved_ts"):
            yield RegionsProgress([event.region_id], TimeStamp(event.resolved_ts), event.request_id)
    if message.HasField("resolved_ts"):
        progress = message.resolved_ts
        yield RegionsProgress(progress.regions, TimeStamp(progress.ts), progress.request_id)


def decode_changes(parts: Iterable[bytes]) -> Sequence[RowEvent]:
    """Decode the changes of several events, in order.

    Most events have one change, and parsing them together takes a fraction of the time.

    Raises:
        CodecError: The bytes are not changes.
    """
    return parse_message(cdcpb_pb2.Event.Entries, b"".join(parts)).entries


def _error(message: cdcpb_pb2.Error) -> FeedError:
    """Convert an error. Raises `CodecError` if a region's bound is not a key."""
    if message.HasField("not_leader"):
        leader = message.not_leader.leader
        peer = peer_from(leader) if leader.id else None
        return FeedError(FeedFault.NOT_LEADER, "is not the leader", peer)
    if message.HasField("epoch_not_match"):
        regions = (region_from(each, None) for each in message.epoch_not_match.current_regions)
        return FeedError(FeedFault.MOVED, "has another epoch", regions=tuple(regions))
    if message.HasField("region_not_found"):
        return FeedError(FeedFault.MOVED, "has no such region")
    if message.HasField("server_is_busy"):
        busy = message.server_is_busy
        reason = f"is busy: {busy.reason[:200]}"
        return FeedError(FeedFault.BUSY, reason, backoff_ms=busy.backoff_ms)
    if message.HasField("congested"):
        return FeedError(FeedFault.CONGESTED, "is congested")
    if message.HasField("duplicate_request"):
        return FeedError(FeedFault.DUPLICATE, "has a request for this region already")
    if message.HasField("compatibility"):
        required = message.compatibility.required_version[:200]
        return FeedError(FeedFault.INCOMPATIBLE, f"requires a client of version {required}")
    if message.HasField("cluster_id_mismatch"):
        current = message.cluster_id_mismatch.current
        return FeedError(FeedFault.OTHER_CLUSTER, "is of another cluster", cluster_id=current)
    return FeedError(FeedFault.UNKNOWN, "returned an error without a name")


def register_request(
    cluster_id: int,
    region_id: RegionID,
    epoch: RegionEpoch,
    request_id: int,
    keys: RawKeyRange,
    checkpoint_ts: TimeStamp,
) -> bytes:
    """Encode the request for a region's changes above `checkpoint_ts`."""
    return cdcpb_pb2.ChangeDataRequest(
        header=_header(cluster_id),
        region_id=region_id,
        region_epoch=metapb_pb2.RegionEpoch(conf_ver=epoch.conf_ver, version=epoch.version),
        checkpoint_ts=checkpoint_ts,
        start_key=_encoded(keys.start),
        end_key=_encoded(keys.end),
        request_id=request_id,
        register=cdcpb_pb2.ChangeDataRequest.Register(),
        kv_api=cdcpb_pb2.ChangeDataRequest.KvAPI.TiDB,
    ).SerializeToString()


def deregister_request(cluster_id: int, region_id: RegionID, request_id: int) -> bytes:
    """Encode the end of a request; for streams of `EVENT_FEED_V2` only."""
    return cdcpb_pb2.ChangeDataRequest(
        header=_header(cluster_id),
        region_id=region_id,
        request_id=request_id,
        deregister=cdcpb_pb2.ChangeDataRequest.Deregister(),
    ).SerializeToString()


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """A request of a stream. Only one that registers has a range and a timestamp."""

    region_id: RegionID
    request_id: int
    registers: bool
    keys: RawKeyRange
    checkpoint_ts: TimeStamp


def decode_request(data: bytes) -> FeedRequest:
    """Decode what `register_request` or `deregister_request` encoded.

    Raises:
        CodecError: The bytes are no such message.
    """
    message = parse_message(cdcpb_pb2.ChangeDataRequest, data)
    bounds = (decode_bytes(key)[0] if key else b"" for key in (message.start_key, message.end_key))
    return FeedRequest(
        RegionID(message.region_id),
        message.request_id,
        message.HasField("register"),
        RawKeyRange(*map(RawKey, bounds)),
        TimeStamp(message.checkpoint_ts),
    )


def _header(cluster_id: int) -> cdcpb_pb2.Header:
    return cdcpb_pb2.Header(cluster_id=cluster_id, ticdc_version=_VERSION)


def _encoded(key: RawKey) -> bytes:
    return encode_bytes(key) if key else b""
