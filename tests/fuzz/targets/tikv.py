"""Responses of TiKV's stores, and of PD about them."""

from contextlib import suppress
from functools import partial
from pathlib import Path

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.cluster.tikv.wire import call, directory, page
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import errorpb_pb2, kvrpcpb_pb2, metapb_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from pyspark_theflash.tidb.schema.meta_key import hash_field, hash_prefix
from tests.fuzz.mutate import bytes_like
from tests.fuzz.run import Target

_PEER = metapb_pb2.Peer(id=3, store_id=1)
_REGION = metapb_pb2.Region(
    id=2,
    start_key=encode_bytes(b"a"),
    end_key=encode_bytes(b"m"),
    region_epoch=metapb_pb2.RegionEpoch(conf_ver=1, version=2),
    peers=[_PEER],
)
_LOCK = kvrpcpb_pb2.LockInfo(
    primary_lock=b"a", lock_version=9, key=b"b", lock_ttl=3000, secondaries=[b"b", b"c"]
)
_KEY_ERROR = kvrpcpb_pb2.KeyError(locked=_LOCK)
_MOVED = errorpb_pb2.Error(epoch_not_match=errorpb_pb2.EpochNotMatch(current_regions=[_REGION]))


def tikv_answer(_: Path) -> Target:
    """The same bytes to every question that a store is asked."""
    pairs = [kvrpcpb_pb2.KvPair(key=b"a", value=b"1"), kvrpcpb_pb2.KvPair(error=_KEY_ERROR)]
    write = kvrpcpb_pb2.MvccWrite(start_ts=5, commit_ts=6, short_value=b"v")
    seeds = [
        kvrpcpb_pb2.GetResponse(value=b"1"),
        kvrpcpb_pb2.GetResponse(error=_KEY_ERROR),
        kvrpcpb_pb2.ScanResponse(pairs=pairs),
        kvrpcpb_pb2.ScanResponse(pairs=[pairs[0]] * 3),
        kvrpcpb_pb2.ScanResponse(region_error=_MOVED),
        kvrpcpb_pb2.CheckTxnStatusResponse(lock_ttl=5, lock_info=_LOCK),
        kvrpcpb_pb2.CheckTxnStatusResponse(commit_version=10),
        kvrpcpb_pb2.CheckSecondaryLocksResponse(locks=[_LOCK], commit_ts=7),
        kvrpcpb_pb2.ReadIndexResponse(read_index=8, locked=_LOCK),
        kvrpcpb_pb2.MvccGetByKeyResponse(info=kvrpcpb_pb2.MvccInfo(writes=[write])),
    ]
    decoders = [
        partial(call.decode_get, RawKey(b"a")),
        call.decode_scan,
        page.decode_scan_page,
        call.decode_check_status,
        partial(call.decode_check_secondaries, 2),
        partial(call.decode_resolve, 1),
        call.decode_read_index,
        call.decode_mvcc_get,
    ]

    def parse(data: bytes) -> None:
        for decode in decoders:
            with suppress(CodecError):
                decode(data)

    texts = [message.SerializeToString() for message in seeds]
    return Target([texts[0]], bytes_like(texts), parse)


def pd_regions(_: Path) -> Target:
    """The same bytes to every question about regions and stores."""
    header = pdpb_pb2.ResponseHeader(cluster_id=7)
    store = metapb_pb2.Store(id=1, address="h:1", labels=[metapb_pb2.StoreLabel(key="a")])
    seeds = [
        pdpb_pb2.GetRegionResponse(header=header, region=_REGION, leader=_PEER),
        pdpb_pb2.ScanRegionsResponse(
            header=header, regions=[pdpb_pb2.Region(region=_REGION, leader=_PEER)] * 2
        ),
        pdpb_pb2.GetStoreResponse(header=header, store=store),
        pdpb_pb2.GetAllStoresResponse(header=header, stores=[store]),
        pdpb_pb2.UpdateServiceGCSafePointResponse(header=header, min_safe_point=5),
        pdpb_pb2.StoreHeartbeatResponse(header=header, cluster_version="6.6.0"),
    ]
    decoders = [
        directory.decode_region,
        directory.decode_regions,
        directory.decode_store,
        directory.decode_stores,
        directory.decode_put_store,
        directory.decode_heartbeat,
        directory.decode_service_safe_point,
    ]

    def parse(data: bytes) -> None:
        for decode in decoders:
            with suppress(CodecError):
                decode(data)

    texts = [message.SerializeToString() for message in seeds]
    return Target([texts[0]], bytes_like(texts), parse)


def meta_field(_: Path) -> Target:
    """The key of a field of one of TiDB's hashes."""
    prefix = hash_prefix(b"DBs")
    seeds = [prefix + encode_bytes(b"DB:1"), prefix + encode_bytes(b"")]
    return Target(seeds, bytes_like(seeds), lambda data: hash_field(data, prefix))
