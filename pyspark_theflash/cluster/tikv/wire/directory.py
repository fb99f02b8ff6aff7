"""PD's calls about regions, stores and service safe points, and their messages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import Message

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import RegionEpoch, RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.wire import parse_response
from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import metapb_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2

M = TypeVar("M", bound=Message)
R = TypeVar("R")

SCAN_LIMIT: Final = 128
"""The maximum number of regions that `scan_regions` returns."""
_NOT_BOOTSTRAPPED: Final = (2,)
"""PD's error until the first store bootstraps the cluster. PD has no data then."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store of the cluster."""

    id: int
    address: str
    labels: tuple[tuple[str, str], ...] = ()
    version: str = ""
    peer_address: str = ""
    start_s: int = 0
    """The time of its start in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """The content of a store's heartbeat."""

    store_id: int
    capacity_bytes: int
    available_bytes: int
    used_bytes: int
    region_count: int
    start_s: int


class Directory:
    """Regions and stores in PD. Methods raise the errors of `PDClient`, and end by the deadline."""

    def __init__(self, pd: PDClient) -> None:
        self._pd = pd

    def tso(self, deadline: Deadline) -> TimeStamp:
        """Return a timestamp greater than all that PD has allocated before this call."""
        return self._pd.tso(deadline.left_ms())

    def region_of(self, key: RawKey, deadline: Deadline) -> LocatedRegion | None:
        """Return the region that contains a key; None if PD has none."""
        request = pdpb_pb2.GetRegionRequest(region_key=_encode(key))
        return self._call("GetRegion", request, decode_region, deadline)

    def region(self, region_id: RegionID, deadline: Deadline) -> LocatedRegion | None:
        """Return a region by id; None if PD has none."""
        request = pdpb_pb2.GetRegionByIDRequest(region_id=region_id)
        return self._call("GetRegionByID", request, decode_region, deadline)

    def scan_regions(self, keys: RawKeyRange, deadline: Deadline) -> list[LocatedRegion]:
        """Return the first `SCAN_LIMIT` regions of a range, by key, possibly with gaps."""
        request = pdpb_pb2.ScanRegionsRequest(
            start_key=_encode(keys.start), end_key=_encode(keys.end), limit=SCAN_LIMIT
        )
        return self._call("ScanRegions", request, decode_regions, deadline)

    def store(self, store_id: int, deadline: Deadline) -> Store:
        """Return a store by id."""
        request = pdpb_pb2.GetStoreRequest(store_id=store_id)
        return self._call("GetStore", request, decode_store, deadline)

    def stores(self, deadline: Deadline) -> list[Store]:
        """Return all stores except tombstones."""
        request = pdpb_pb2.GetAllStoresRequest(exclude_tombstone_stores=True)
        return self._call("GetAllStores", request, decode_stores, deadline)

    def new_id(self, deadline: Deadline) -> int:
        """Allocate an id that no store, region or peer of the cluster has."""
        return self._call("AllocID", pdpb_pb2.AllocIDRequest(), decode_id, deadline)

    def put_store(self, store: Store, deadline: Deadline) -> None:
        """Register a store under an id from `new_id`, or update its record."""
        message = metapb_pb2.Store(
            id=store.id,
            address=store.address,
            peer_address=store.peer_address,
            labels=[metapb_pb2.StoreLabel(key=k, value=v) for k, v in store.labels],
            version=store.version,
            start_timestamp=store.start_s,
        )
        request = pdpb_pb2.PutStoreRequest(store=message)
        self._call("PutStore", request, decode_put_store, deadline)

    def heartbeat(self, stats: StoreStats, deadline: Deadline) -> str:
        """Send a store's heartbeat, due about every ten seconds. Returns the cluster's version."""
        message = pdpb_pb2.StoreStats(
            store_id=stats.store_id,
            capacity=stats.capacity_bytes,
            available=stats.available_bytes,
            used_size=stats.used_bytes,
            region_count=stats.region_count,
            start_time=stats.start_s,
        )
        request = pdpb_pb2.StoreHeartbeatRequest(stats=message)
        return self._call("StoreHeartbeat", request, decode_heartbeat, deadline)

    def hold_safe_point(
        self, service: str, safe_point: TimeStamp, ttl_s: int, deadline: Deadline
    ) -> TimeStamp:
        """Set a service safe point, which keeps TiKV's GC at or below it for `ttl_s`; 0 removes it.

        Returns the lowest safe point of all services. If it is above `safe_point`, the request was
        too late, and nothing is held.
        """
        request = pdpb_pb2.UpdateServiceGCSafePointRequest(
            service_id=service.encode(), TTL=ttl_s, safe_point=safe_point
        )
        return self._call("UpdateServiceGCSafePoint", request, decode_service_safe_point, deadline)

    def _call(
        self, method: str, request: Message, decode: Callable[[bytes], R], deadline: Deadline
    ) -> R:
        return self._pd.call(f"/pdpb.PD/{method}", request, decode, deadline.left_ms())


# Responses. Each function raises `CodecError`, also for an error of PD.


def decode_region(data: bytes) -> LocatedRegion | None:
    """Decode a region; None if PD has none."""
    message = _parse(pdpb_pb2.GetRegionResponse, data)
    return region_from(message.region, message.leader) if message.region.id else None


def decode_regions(data: bytes) -> list[LocatedRegion]:
    """Decode regions."""
    message = _parse(pdpb_pb2.ScanRegionsResponse, data)
    return [region_from(each.region, each.leader) for each in message.regions]


def decode_store(data: bytes) -> Store:
    """Decode a store, which must be present."""
    message = _parse(pdpb_pb2.GetStoreResponse, data)
    if not message.store.id:
        raise CodecError("pdpb.GetStoreResponse", "no store")
    return _store_from(message.store)


def decode_stores(data: bytes) -> list[Store]:
    """Decode stores."""
    return [_store_from(each) for each in _parse(pdpb_pb2.GetAllStoresResponse, data).stores]


def decode_id(data: bytes) -> int:
    """Decode an allocated id, which must be present."""
    message = _parse(pdpb_pb2.AllocIDResponse, data)
    if not message.id:
        raise CodecError("pdpb.AllocIDResponse", "no id")
    return message.id


def decode_put_store(data: bytes) -> None:
    """Check the response to a registration."""
    _parse(pdpb_pb2.PutStoreResponse, data)


def decode_heartbeat(data: bytes) -> str:
    """Decode the cluster's version."""
    return _parse(pdpb_pb2.StoreHeartbeatResponse, data).cluster_version


def decode_service_safe_point(data: bytes) -> TimeStamp:
    """Decode the lowest service safe point."""
    return TimeStamp(_parse(pdpb_pb2.UpdateServiceGCSafePointResponse, data).min_safe_point)


def region_from(region: metapb_pb2.Region, leader: metapb_pb2.Peer | None) -> LocatedRegion:
    """Convert a region. Raises `CodecError` if a bound is not a key."""
    return LocatedRegion(
        RegionID(region.id),
        RawKeyRange(_decode(region.start_key), _decode(region.end_key)),
        RegionEpoch(region.region_epoch.conf_ver, region.region_epoch.version),
        tuple(map(peer_from, region.peers)),
        peer_from(leader) if leader is not None and leader.id else None,
    )


def peer_from(peer: metapb_pb2.Peer) -> LocatedPeer:
    """Convert a peer."""
    is_learner = peer.role == metapb_pb2.PeerRole.Learner
    return LocatedPeer(peer.id, peer.store_id, is_learner, peer.is_witness)


def peer_to(peer: LocatedPeer) -> metapb_pb2.Peer:
    """Convert a peer to a message. Every peer that is not a learner becomes a Voter."""
    role = metapb_pb2.PeerRole.Learner if peer.is_learner else metapb_pb2.PeerRole.Voter
    return metapb_pb2.Peer(
        id=peer.id, store_id=peer.store_id, role=role, is_witness=peer.is_witness
    )


def _store_from(store: metapb_pb2.Store) -> Store:
    return Store(
        store.id,
        store.address,
        tuple((label.key, label.value) for label in store.labels),
        store.version,
        store.peer_address,
        store.start_timestamp,
    )


def _encode(key: RawKey) -> bytes:
    return encode_bytes(key) if key else b""


def _decode(key: bytes) -> RawKey:
    if not key:
        return RawKey(b"")
    raw, end = decode_bytes(key)
    if end != len(key):
        raise CodecError("region bound", "bytes after the key", end)
    return RawKey(raw)


def _parse(kind: type[M], data: bytes) -> M:
    return parse_response(kind, data, accepted_errors=_NOT_BOOTSTRAPPED)
