"""PD's messages about regions, stores and service safe points."""

from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import Message

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import RegionEpoch, RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedPeer, LocatedRegion, RawKeyRange
from pyspark_theflash.tidb.codec.bytes import decode_bytes, encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import metapb_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from pyspark_theflash.tidb.protocol.message import parse_message

M = TypeVar("M", bound=Message)

GET_REGION: Final = "/pdpb.PD/GetRegion"
GET_REGION_BY_ID: Final = "/pdpb.PD/GetRegionByID"
SCAN_REGIONS: Final = "/pdpb.PD/ScanRegions"
GET_STORE: Final = "/pdpb.PD/GetStore"
GET_ALL_STORES: Final = "/pdpb.PD/GetAllStores"
ALLOC_ID: Final = "/pdpb.PD/AllocID"
PUT_STORE: Final = "/pdpb.PD/PutStore"
STORE_HEARTBEAT: Final = "/pdpb.PD/StoreHeartbeat"
UPDATE_SERVICE_SAFE_POINT: Final = "/pdpb.PD/UpdateServiceGCSafePoint"

_NONE, _NOT_BOOTSTRAPPED = 0, 2


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


def encode_region_request(cluster_id: int, key: RawKey) -> bytes:
    """Encode a request for the region that contains a key."""
    request = pdpb_pb2.GetRegionRequest(header=_header(cluster_id), region_key=_encode(key))
    return request.SerializeToString()


def encode_region_by_id_request(cluster_id: int, region_id: RegionID) -> bytes:
    """Encode a request for a region by id."""
    header = _header(cluster_id)
    return pdpb_pb2.GetRegionByIDRequest(header=header, region_id=region_id).SerializeToString()


def decode_region(data: bytes) -> LocatedRegion | None:
    """Decode a region; None if PD has none. Raises `CodecError`, also for an error of PD."""
    message = _parse(pdpb_pb2.GetRegionResponse, data)
    return region_from(message.region, message.leader) if message.region.id else None


def encode_scan_request(cluster_id: int, keys: RawKeyRange, limit: int) -> bytes:
    """Encode a request for the first regions of a range."""
    request = pdpb_pb2.ScanRegionsRequest(
        header=_header(cluster_id),
        start_key=_encode(keys.start),
        end_key=_encode(keys.end),
        limit=limit,
    )
    return request.SerializeToString()


def decode_regions(data: bytes) -> list[LocatedRegion]:
    """Decode regions. Raises `CodecError`, also for an error of PD."""
    message = _parse(pdpb_pb2.ScanRegionsResponse, data)
    return [region_from(each.region, each.leader) for each in message.regions]


def encode_store_request(cluster_id: int, store_id: int) -> bytes:
    """Encode a request for a store by id."""
    header = _header(cluster_id)
    return pdpb_pb2.GetStoreRequest(header=header, store_id=store_id).SerializeToString()


def decode_store(data: bytes) -> Store:
    """Decode a store. Raises `CodecError`, also for an error of PD or if there is no store."""
    message = _parse(pdpb_pb2.GetStoreResponse, data)
    if not message.store.id:
        raise CodecError("pdpb.GetStoreResponse", "no store")
    return _store_from(message.store)


def encode_stores_request(cluster_id: int) -> bytes:
    """Encode a request for all stores except tombstones."""
    header = _header(cluster_id)
    request = pdpb_pb2.GetAllStoresRequest(header=header, exclude_tombstone_stores=True)
    return request.SerializeToString()


def decode_stores(data: bytes) -> list[Store]:
    """Decode stores. Raises `CodecError`, also for an error of PD."""
    message = _parse(pdpb_pb2.GetAllStoresResponse, data)
    return [_store_from(each) for each in message.stores]


def encode_alloc_id(cluster_id: int) -> bytes:
    """Encode a request for an id that is unique in the cluster."""
    return pdpb_pb2.AllocIDRequest(header=_header(cluster_id)).SerializeToString()


def decode_alloc_id(data: bytes) -> int:
    """Decode an id. Raises `CodecError`, also for an error of PD."""
    message = _parse(pdpb_pb2.AllocIDResponse, data)
    if not message.id:
        raise CodecError("pdpb.AllocIDResponse", "no id")
    return message.id


def encode_put_store(cluster_id: int, store: Store) -> bytes:
    """Encode a request to register or update a store."""
    message = metapb_pb2.Store(
        id=store.id,
        address=store.address,
        peer_address=store.peer_address,
        labels=[metapb_pb2.StoreLabel(key=k, value=v) for k, v in store.labels],
        version=store.version,
        start_timestamp=store.start_s,
    )
    request = pdpb_pb2.PutStoreRequest(header=_header(cluster_id), store=message)
    return request.SerializeToString()


def decode_put_store(data: bytes) -> None:
    """Check the response. Raises `CodecError`, also for an error of PD."""
    _parse(pdpb_pb2.PutStoreResponse, data)


def encode_heartbeat(cluster_id: int, stats: StoreStats) -> bytes:
    """Encode a store's heartbeat."""
    message = pdpb_pb2.StoreStats(
        store_id=stats.store_id,
        capacity=stats.capacity_bytes,
        available=stats.available_bytes,
        used_size=stats.used_bytes,
        region_count=stats.region_count,
        start_time=stats.start_s,
    )
    request = pdpb_pb2.StoreHeartbeatRequest(header=_header(cluster_id), stats=message)
    return request.SerializeToString()


def decode_heartbeat(data: bytes) -> str:
    """Decode the cluster's version. Raises `CodecError`, also for an error of PD."""
    message = _parse(pdpb_pb2.StoreHeartbeatResponse, data)
    return message.cluster_version


def encode_service_safe_point(
    cluster_id: int, service: str, safe_point: TimeStamp, ttl_s: int
) -> bytes:
    """Encode a request to set a service safe point for `ttl_s`; 0 removes it."""
    request = pdpb_pb2.UpdateServiceGCSafePointRequest(
        header=_header(cluster_id), service_id=service.encode(), TTL=ttl_s, safe_point=safe_point
    )
    return request.SerializeToString()


def decode_service_safe_point(data: bytes) -> TimeStamp:
    """Decode the lowest service safe point. Raises `CodecError`, also for an error of PD."""
    message = _parse(pdpb_pb2.UpdateServiceGCSafePointResponse, data)
    return TimeStamp(message.min_safe_point)


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


def _header(cluster_id: int) -> pdpb_pb2.RequestHeader:
    return pdpb_pb2.RequestHeader(cluster_id=cluster_id)


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
    """Parse a response. Raises `CodecError`, also if it contains an error."""
    message = parse_message(kind, data)
    failure = message.header.error  # type: ignore[attr-defined]
    # Until the first store bootstraps the cluster, PD has no data.
    if failure.type not in (_NONE, _NOT_BOOTSTRAPPED):
        raise CodecError(kind.DESCRIPTOR.full_name, f"error {failure.type}: {failure.message}")
    return message
