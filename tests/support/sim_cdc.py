"""TiKV's change feed in memory: transactions on keys in regions that split, merge and move.

A request is sent what `components/cdc` of TiKV sends: live events from the registration on, a scan
of a snapshot that was taken later, in pieces between live events, INITIALIZED, then progress. The
test decides when each step is made. Old stores behave like TiKV 6.5: one request per region and
stream, none can be ended, whole regions are sent, and there is no EventFeedV2.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion, RawKeyRange
from pyspark_theflash.replication.cdc.streams import StreamEnd
from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2, errorpb_pb2, metapb_pb2

Row = cdcpb_pb2.Event.Row
_PREWRITE = cdcpb_pb2.Event.LogType.PREWRITE
_COMMIT = cdcpb_pb2.Event.LogType.COMMIT
_ROLLBACK = cdcpb_pb2.Event.LogType.ROLLBACK
_COMMITTED = cdcpb_pb2.Event.LogType.COMMITTED
_INITIALIZED = cdcpb_pb2.Event.LogType.INITIALIZED
CLUSTER = 77
STORES = (1, 2, 3)


@dataclass
class Txn:
    """A transaction: its keys with new values (None deletes), of which some are prewritten."""

    start_ts: int
    writes: dict[bytes, bytes | None]
    commit_ts: int = 0
    generation: int = 0


@dataclass(eq=False)
class SimCdcRegion:
    id: int
    start: bytes
    end: bytes
    version: int
    leader: int

    def __contains__(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)

    def message(self) -> metapb_pb2.Region:
        return metapb_pb2.Region(
            id=self.id,
            start_key=encode_bytes(self.start) if self.start else b"",
            end_key=encode_bytes(self.end) if self.end else b"",
            region_epoch=metapb_pb2.RegionEpoch(conf_ver=1, version=self.version),
            peers=[metapb_pb2.Peer(id=10 * self.id + s, store_id=s) for s in STORES],
        )

    def located(self) -> LocatedRegion:
        peers = tuple(LocatedPeer(10 * self.id + s, s) for s in STORES)
        keys = RawKeyRange(RawKey(self.start), RawKey(self.end))
        leader = peers[STORES.index(self.leader)]
        return LocatedRegion(RegionID(self.id), keys, RegionEpoch(1, self.version), peers, leader)


@dataclass(eq=False)
class Downstream:
    """A request to a region. `scan` is what is left to be sent of it; None before the snapshot."""

    stream: "SimStream"
    region: SimCdcRegion
    request_id: int
    checkpoint_ts: int
    start: bytes
    end: bytes
    scan: list[Row] | None = None
    is_initialized: bool = False
    advanced_to: int = 0

    def __contains__(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)


class SimStream:
    """A stream to a store; `out` has the frames that were not received yet."""

    def __init__(self, sim: "SimCdc", store_id: int, *, is_multiplexed: bool) -> None:
        self.sim, self.store_id, self.is_multiplexed = sim, store_id, is_multiplexed
        self.address = f"store-{store_id}"
        self.out: list[bytes | StreamEnd] = []
        self.is_open = True

    def send(self, request: bytes) -> None:
        if self.is_open:
            self.sim.handle(self, cdcpb_pb2.ChangeDataRequest.FromString(request))

    def close(self) -> None:
        self.is_open = False
        self.out.clear()
        self.sim.drop(self)


@dataclass
class SimCdc:
    """A cluster. Each method is one step."""

    rng: random.Random
    is_old: bool = False
    ts: int = 100
    versions: dict[bytes, dict[int, tuple[int, bytes | None]]] = field(default_factory=dict)
    """key -> commit_ts -> start_ts, value."""
    locks: dict[bytes, tuple[Txn, int]] = field(default_factory=dict)
    """key -> transaction, generation."""
    regions: list[SimCdcRegion] = field(default_factory=list)
    downstreams: list[Downstream] = field(default_factory=list)
    requests: list[cdcpb_pb2.ChangeDataRequest] = field(default_factory=list)
    next_errors: list[cdcpb_pb2.Error] = field(default_factory=list)
    """Answers to the next requests."""

    def __post_init__(self) -> None:
        self.regions = self.regions or [SimCdcRegion(1, b"", b"", 1, 1)]
        self._next_region = 100

    def tso(self) -> int:
        self.ts += self.rng.randint(1, 3)
        return self.ts

    def region_of(self, key: bytes) -> SimCdcRegion:
        return next(region for region in self.regions if key in region)

    # Transactions.

    def begin(self, writes: dict[bytes, bytes | None]) -> Txn:
        return Txn(self.tso(), writes)

    def prewrite(self, txn: Txn, keys: Iterable[bytes], *, generation: int = 0) -> None:
        """Lock keys. One of another transaction must not be locked."""
        for key in keys:
            assert self.locks.get(key, (txn, 0))[0] is txn
            self.locks[key] = (txn, generation)
            self._emit(key, self._prewrite_row(key))

    def heartbeat(self, txn: Txn, key: bytes) -> None:
        """Rewrite a lock, as for a longer TTL; old TiKVs send that without the value."""
        if self.locks.get(key, (None, 0))[0] is txn:
            row = self._prewrite_row(key)
            row.ClearField("value")
            self._emit(key, row)

    def commit(self, txn: Txn, keys: Iterable[bytes]) -> None:
        """Commit locked keys; the first ones determine commit_ts."""
        txn.commit_ts = txn.commit_ts or self.tso()
        for key in keys:
            assert self.locks.pop(key)[0] is txn
            value = txn.writes[key]
            self.versions.setdefault(key, {})[txn.commit_ts] = (txn.start_ts, value)
            self._emit(key, self._row(key, txn.start_ts, value, _COMMIT, txn.commit_ts, bare=True))

    def roll_back(self, txn: Txn, keys: Iterable[bytes], *, is_silent: bool = False) -> None:
        """Remove locks; `is_silent` without a record of it."""
        for key in keys:
            if self.locks.get(key, (None, 0))[0] is txn:
                del self.locks[key]
            if not is_silent:
                row = Row(start_ts=txn.start_ts, type=_ROLLBACK, key=key)
                self._emit(key, row)

    def one_phase(self, writes: dict[bytes, bytes | None]) -> int:
        """Commit unlocked keys of one region in one phase; return the commit_ts."""
        start_ts, commit_ts = self.tso(), self.tso()
        for key, value in writes.items():
            assert key not in self.locks
            self.versions.setdefault(key, {})[commit_ts] = (start_ts, value)
            self._emit(key, self._row(key, start_ts, value, _COMMITTED, commit_ts))
        return commit_ts

    # Regions.

    def split(self, key: bytes) -> None:
        region = self.region_of(key)
        if region.start == key:
            return
        self._next_region += 1
        version = region.version + 1
        new = SimCdcRegion(self._next_region, key, region.end, version, region.leader)
        if self.rng.random() < 0.5:  # the right part keeps the id
            new.start, new.end, region.start = region.start, key, key
        else:
            region.end = key
        region.version = version
        self.regions.append(new)
        self._end_region(region, _epoch_error([region, new]))

    def merge(self, region: SimCdcRegion) -> None:
        """Merge a region into its right neighbor."""
        if not region.end:
            return
        right = self.region_of(region.end)
        self._end_region(region, _epoch_error([]))
        self._end_region(right, _epoch_error([]))
        right.start, right.version = region.start, max(region.version, right.version) + 1
        self.regions.remove(region)

    def move_leader(self, region: SimCdcRegion, store_id: int, *, names_leader: bool) -> None:
        region.leader = store_id
        peer = metapb_pb2.Peer(id=10 * region.id + store_id, store_id=store_id)
        leader = errorpb_pb2.NotLeader(leader=peer if names_leader else None)
        self._end_region(region, cdcpb_pb2.Error(not_leader=leader))

    # The service.

    def handle(self, stream: SimStream, request: cdcpb_pb2.ChangeDataRequest) -> None:
        assert request.header.cluster_id == CLUSTER
        assert request.header.ticdc_version >= "5.3.0"
        assert not request.filter_loop
        self.requests.append(request)
        if stream.is_multiplexed and self.is_old:
            stream.out.append(StreamEnd("UNIMPLEMENTED: unknown method", is_unimplemented=True))
            stream.is_open = False
            return
        key = (request.region_id, request.request_id)
        if request.HasField("deregister"):
            assert not self.is_old
            for each in [d for d in self.downstreams if d.stream is stream and _id(d) == key]:
                self._end(each, _error(region_not_found={}))
            return
        matches = [r for r in self.regions if r.id == request.region_id]
        if self.next_errors:
            self._send(stream, *key, error=self.next_errors.pop(0))
            return
        if not matches:
            self._send(stream, *key, error=_error(region_not_found={}))
            return
        region = matches[0]
        if region.leader != stream.store_id:
            self._send(stream, *key, error=_error(not_leader={}))
            return
        if region.version != request.region_epoch.version:
            self._send(stream, *key, error=_epoch_error([region]))
            return
        same = [d for d in self.downstreams if d.stream is stream and d.region is region]
        if any(stream.is_multiplexed is False or d.request_id == request.request_id for d in same):
            self._send(stream, *key, error=_error(duplicate_request={"region_id": region.id}))
            return
        start, end = (
            decode_bytes(each)[0] if each else b"" for each in (request.start_key, request.end_key)
        )
        if self.is_old:
            start, end = region.start, region.end
        self.downstreams.append(
            Downstream(stream, region, request.request_id, request.checkpoint_ts, start, end)
        )

    def drop(self, stream: SimStream) -> None:
        self.downstreams = [d for d in self.downstreams if d.stream is not stream]

    def cut(self, stream: SimStream) -> None:
        """End a stream; sent messages may still be received."""
        stream.is_open = False
        stream.out.append(StreamEnd("UNAVAILABLE: connection reset"))
        self.drop(stream)

    def scan(self, each: Downstream, rows: int) -> None:
        """Take the snapshot of a request, or send some rows of it and INITIALIZED at its end."""
        if each.is_initialized:
            return
        if each.scan is None:
            each.scan = self._scanned(each)
            return
        part, each.scan = each.scan[:rows], each.scan[rows:]
        if not each.scan:
            part.append(Row(type=_INITIALIZED))
            each.is_initialized = True
        self._send(each.stream, *_id(each), rows=part)

    def tick(self, *, regions: Iterable[SimCdcRegion] | None = None) -> None:
        """Report the progress of requests."""
        now = self.tso()
        chosen = list(self.regions if regions is None else regions)
        groups: dict[tuple[SimStream, int, bool], list[Downstream]] = {}
        for each in self.downstreams:
            if each.is_initialized and each.region in chosen:
                whole = each.region if self.is_old else each
                held = [t.start_ts for k, (t, _) in self.locks.items() if k in whole]
                # Never lowered by the lock of a transaction that began before.
                each.advanced_to = max(each.advanced_to, min([now, *held]))
                is_outlier = self.rng.random() < 0.5
                groups.setdefault((each.stream, each.request_id, is_outlier), []).append(each)
        for (stream, request_id, _), group in groups.items():
            ts = min(each.advanced_to for each in group)
            ids = [each.region.id for each in group]
            progress = cdcpb_pb2.ResolvedTs(regions=ids, ts=ts, request_id=request_id)
            stream.out.append(cdcpb_pb2.ChangeDataEvent(resolved_ts=progress).SerializeToString())

    def fail(self, each: Downstream, error: cdcpb_pb2.Error) -> None:
        """End a request with an error."""
        self._end(each, error)

    def _scanned(self, each: Downstream) -> list[Row]:
        rows = []
        for key in sorted(self.versions.keys() | self.locks.keys()):
            if key not in each or key not in each.region:
                continue
            if key in self.locks:
                rows.append(self._prewrite_row(key))
            for commit_ts, (start_ts, value) in sorted(self.versions.get(key, {}).items())[::-1]:
                if commit_ts > each.checkpoint_ts:
                    rows.append(self._row(key, start_ts, value, _COMMITTED, commit_ts))
        return rows

    def _prewrite_row(self, key: bytes) -> Row:
        txn, generation = self.locks[key]
        value = txn.writes[key]
        if generation and generation < txn.generation:
            value = b"flushed %d" % generation
        row = self._row(key, txn.start_ts, value, _PREWRITE)
        row.generation = generation
        return row

    def _row(
        self,
        key: bytes,
        start_ts: int,
        value: bytes | None,
        kind: int,
        commit_ts: int = 0,
        *,
        bare: bool = False,
    ) -> Row:
        return Row(
            start_ts=start_ts,
            commit_ts=commit_ts,
            type=kind,  # type: ignore[arg-type]
            op_type=Row.OpType.DELETE if value is None else Row.OpType.PUT,
            key=key,
            value=b"" if bare or value is None else value,
        )

    def _emit(self, key: bytes, row: Row) -> None:
        for each in self.downstreams:
            if key in each.region and key in each:
                self._send(each.stream, *_id(each), rows=[row])

    def _send(
        self,
        stream: SimStream,
        region_id: int,
        request_id: int,
        rows: Iterable[Row] = (),
        error: cdcpb_pb2.Error | None = None,
    ) -> None:
        event = cdcpb_pb2.Event(region_id=region_id, request_id=request_id)
        if error is None:
            event.entries.entries.extend(rows)
        else:
            event.error.CopyFrom(error)
        frame = cdcpb_pb2.ChangeDataEvent(events=[event])
        last = stream.out[-1] if stream.out else None
        if isinstance(last, bytes) and self.rng.random() < 0.5:  # several events in a message
            before = cdcpb_pb2.ChangeDataEvent.FromString(last)
            if not before.HasField("resolved_ts"):
                before.MergeFrom(frame)
                stream.out[-1] = before.SerializeToString()
                return
        stream.out.append(frame.SerializeToString())

    def _end(self, each: Downstream, error: cdcpb_pb2.Error) -> None:
        self.downstreams.remove(each)
        self._send(each.stream, *_id(each), error=error)

    def _end_region(self, region: SimCdcRegion, error: cdcpb_pb2.Error) -> None:
        for each in [d for d in self.downstreams if d.region is region]:
            self._end(each, error)


def _id(each: Downstream) -> tuple[int, int]:
    return each.region.id, each.request_id


def _error(**kind: object) -> cdcpb_pb2.Error:
    return cdcpb_pb2.Error(**kind)  # type: ignore[arg-type]


def _epoch_error(regions: Iterable[SimCdcRegion]) -> cdcpb_pb2.Error:
    current = [region.message() for region in regions]
    return cdcpb_pb2.Error(epoch_not_match=errorpb_pb2.EpochNotMatch(current_regions=current))


class SimStreams:
    """`Streams` of a `SimCdc`. `asleep` is called instead of waiting."""

    def __init__(self, sim: SimCdc, asleep: Callable[[int], None]) -> None:
        self.sim, self.asleep, self.open_streams = sim, asleep, list[SimStream]()

    def open(self, store_id: int, deadline: Deadline, *, is_multiplexed: bool) -> SimStream:
        stream = SimStream(self.sim, store_id, is_multiplexed=is_multiplexed)
        self.open_streams.append(stream)
        return stream

    def receive(self, timeout_ms: int) -> list[tuple[SimStream, bytes | StreamEnd]]:
        items = self._items()
        if not items:
            self.asleep(timeout_ms)
            items = self._items()
        return items

    def _items(self) -> list[tuple[SimStream, bytes | StreamEnd]]:
        items: list[tuple[SimStream, bytes | StreamEnd]] = []
        for stream in self.open_streams:
            count = self.sim.rng.randint(0, len(stream.out))
            items += [(stream, item) for item in stream.out[:count]]
            del stream.out[:count]
        return items

    def close(self) -> None:
        for stream in self.open_streams:
            stream.close()


class SimDirectory:
    """`Directory` of a `SimCdc`; `stale` regions, if any, are in PD."""

    def __init__(self, sim: SimCdc) -> None:
        self.sim = sim
        self.stale: list[LocatedRegion] | None = None

    def freeze(self) -> None:
        self.stale = self._regions()

    def _regions(self) -> list[LocatedRegion]:
        if self.stale is not None:
            return self.stale
        return sorted((r.located() for r in self.sim.regions), key=lambda r: r.range.start)

    def region_of(self, key: RawKey, deadline: Deadline) -> LocatedRegion | None:
        return next((r for r in self._regions() if key in r.range), None)

    def region(self, region_id: RegionID, deadline: Deadline) -> LocatedRegion | None:
        return next((r for r in self._regions() if r.id == region_id), None)

    def scan_regions(self, keys: RawKeyRange, deadline: Deadline) -> list[LocatedRegion]:
        every = self._regions()
        return [r for r in every if r.range.clip(keys.start, keys.end) is not None][:128]
