"""Responses of TiKV's stores, and of PD about them."""

from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import MAX_TS, PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.tikv.wire import call, directory, page
from pyspark_theflash.replication.cdc import wire as cdc
from pyspark_theflash.replication.cdc.buffer import ChangeBuffer
from pyspark_theflash.replication.cdc.matcher import CommittedRows, Matcher
from pyspark_theflash.replication.cdc.spans import SpanPiece
from pyspark_theflash.replication.pairing.spill import Spill
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto import (
    cdcpb_pb2,
    errorpb_pb2,
    kvrpcpb_pb2,
    metapb_pb2,
)
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
    """Answers every request to a store with the same bytes."""
    # Where there is a pandas, the first array loads it.
    pa.array([0])
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
        kvrpcpb_pb2.ScanLockResponse(locks=[_LOCK] * 2),
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
        call.decode_scan_locks,
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


def change_events(_: Path) -> Target:
    """Messages of a change feed, up to its decoded rows."""
    row = cdcpb_pb2.Event.Row
    keys = [encode_record_key(PhysicalTableID(5), handle) for handle in (1, -7, b"\x01clustered")]
    rows = [
        row(type=cdc.COMMITTED, op_type=cdc.PUT, start_ts=9, commit_ts=11, key=keys[0], value=b"v"),
        row(type=cdc.PREWRITE, op_type=cdc.PUT, start_ts=12, key=keys[1], value=b"w"),
        row(type=cdc.PREWRITE, op_type=cdc.DELETE, start_ts=12, key=keys[2], generation=2),
        row(type=cdc.INITIALIZED),
        row(type=cdc.COMMIT, op_type=cdc.PUT, start_ts=12, commit_ts=15, key=keys[1]),
        row(type=cdc.COMMIT, op_type=cdc.DELETE, start_ts=12, commit_ts=15, key=keys[2]),
        row(type=cdc.ROLLBACK, start_ts=13, key=keys[0]),
        row(
            type=cdc.COMMITTED, op_type=cdc.PUT, start_ts=9, commit_ts=16, key=b"mDB:1", value=b"m"
        ),
    ]
    entries = cdcpb_pb2.Event.Entries(entries=rows)
    errors = [
        cdcpb_pb2.Error(not_leader=errorpb_pb2.NotLeader(leader=_PEER)),
        cdcpb_pb2.Error(epoch_not_match=errorpb_pb2.EpochNotMatch(current_regions=[_REGION])),
        cdcpb_pb2.Error(server_is_busy=errorpb_pb2.ServerIsBusy(reason="scans", backoff_ms=3)),
        cdcpb_pb2.Error(compatibility=cdcpb_pb2.Compatibility(required_version="9.0.0")),
    ]
    events = [cdcpb_pb2.Event(region_id=2, request_id=1, error=error) for error in errors]
    progress = cdcpb_pb2.ResolvedTs(regions=[2, 3], ts=20, request_id=1)
    seeds = [
        cdcpb_pb2.ChangeDataEvent(events=[cdcpb_pb2.Event(region_id=2, entries=entries)]),
        cdcpb_pb2.ChangeDataEvent(events=events),
        cdcpb_pb2.ChangeDataEvent(resolved_ts=progress),
    ]

    def parse(data: bytes) -> None:
        every = RawKeyRange(RawKey(b""), RawKey(b""))
        matcher = Matcher([SpanPiece(every, every, TimeStamp(10))], TimeStamp(10))
        committed = CommittedRows()
        for item in cdc.decode_frames([data]):
            if isinstance(item, cdc.RegionsProgress):
                matcher.advance(item.resolved_ts, committed)
            elif not isinstance(item[2], cdc.FeedError):
                matcher.add(cdc.decode_changes(item[2]), committed)
        buffer = ChangeBuffer(Spill())
        buffer.add(committed, [1], [len(committed.keys)])
        for versions in buffer.take(MAX_TS).versions:
            assert len(versions.values) == len(versions.handles) == len(versions)

    texts = [seed.SerializeToString() for seed in seeds]
    return Target(texts, bytes_like(texts), parse)
