"""TiKV's stores and PD in process, over gRPC: three stores that serve one `SimCluster`.

with FakeTiKV() as tikv:
    PDClient([tikv.pd.address], clock=clock)
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf.message import Message

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.tls import TlsFiles
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.lock import Lock, LockKind
from pyspark_theflash.cluster.resolve import StatusCheck, TxnState
from pyspark_theflash.net.channel import grpc
from pyspark_theflash.tidb.codec.bytes import encode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import errorpb_pb2, kvrpcpb_pb2, metapb_pb2
from pyspark_theflash.tidb.protocol._generated.pd import pdpb_pb2
from tests.support.fake_pd import FakePD, unary
from tests.support.percolator import Locked
from tests.support.sim_cluster import STORES, SimCluster, SimRegion
from tests.support.tls import bind

CLUSTER = 77
_OPS = {
    LockKind.PUT: kvrpcpb_pb2.Op.Put,
    LockKind.DELETE: kvrpcpb_pb2.Op.Del,
    LockKind.LOCK: kvrpcpb_pb2.Op.Lock,
    LockKind.PESSIMISTIC: kvrpcpb_pb2.Op.PessimisticLock,
    LockKind.SHARED: kvrpcpb_pb2.Op.SharedLock,
}
_NEVER = Deadline(SystemClock(), 1 << 40)


class ClusterPD(FakePD):
    """PD of a `SimCluster`. `stale` are its outdated regions, if any."""

    def __init__(self, cluster: SimCluster, tls: TlsFiles | None = None) -> None:
        super().__init__(CLUSTER, tls)
        self.cluster = cluster
        self.addresses: dict[int, str] = {}
        self.stale: list[tuple[metapb_pb2.Region, metapb_pb2.Peer | None]] | None = None
        self.service_safe_points: dict[bytes, int] = {b"gc_worker": 0}
        self.put: list[metapb_pb2.Store] = []
        self.heartbeats: list[pdpb_pb2.StoreStats] = []

    def freeze(self) -> None:
        """Stop updating the regions in PD until `stale` is None again."""
        self.stale = self._regions()

    def _services(self) -> dict[str, dict[str, grpc.RpcMethodHandler]]:
        services = super()._services()
        services["pdpb.PD"] |= {
            "GetRegion": unary(self._region, pdpb_pb2.GetRegionRequest),
            "GetRegionByID": unary(self._region_by_id, pdpb_pb2.GetRegionByIDRequest),
            "ScanRegions": unary(self._scan_regions, pdpb_pb2.ScanRegionsRequest),
            "GetStore": unary(self._store, pdpb_pb2.GetStoreRequest),
            "GetAllStores": unary(self._stores, pdpb_pb2.GetAllStoresRequest),
            "AllocID": unary(self._alloc_id, pdpb_pb2.AllocIDRequest),
            "PutStore": unary(self._put_store, pdpb_pb2.PutStoreRequest),
            "StoreHeartbeat": unary(self._heartbeat, pdpb_pb2.StoreHeartbeatRequest),
            "UpdateServiceGCSafePoint": unary(
                self._service_safe_point, pdpb_pb2.UpdateServiceGCSafePointRequest
            ),
        }
        return services

    def _tso(self, requests: Any, context: grpc.ServicerContext) -> Any:
        with self.cluster.mutex:
            ts = self.cluster.tikv.tso()
        self.clock = (ts >> 18, (ts & (1 << 18) - 1) - 1)
        yield from super()._tso(requests, context)

    def _regions(self) -> list[tuple[metapb_pb2.Region, metapb_pb2.Peer | None]]:
        if self.stale is not None:
            return self.stale
        with self.cluster.mutex:
            return [(region_message(r), leader_message(r)) for r in self.cluster.sorted()]

    def _answer(
        self, matches: Sequence[tuple[metapb_pb2.Region, metapb_pb2.Peer | None]]
    ) -> pdpb_pb2.GetRegionResponse:
        if not matches or self.header_error:
            return pdpb_pb2.GetRegionResponse(header=self._header())
        region, leader = matches[0]
        return pdpb_pb2.GetRegionResponse(header=self._header(), region=region, leader=leader)

    def _region(
        self, request: pdpb_pb2.GetRegionRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.GetRegionResponse:
        self._called("GetRegion", request.header.cluster_id, context)
        key = request.region_key
        candidates = [(r, p) for r, p in self._regions() if r.start_key <= key]
        return self._answer([(r, p) for r, p in candidates if not r.end_key or key < r.end_key])

    def _region_by_id(
        self, request: pdpb_pb2.GetRegionByIDRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.GetRegionResponse:
        self._called("GetRegionByID", request.header.cluster_id, context)
        return self._answer([(r, p) for r, p in self._regions() if r.id == request.region_id])

    def _scan_regions(
        self, request: pdpb_pb2.ScanRegionsRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.ScanRegionsResponse:
        self._called("ScanRegions", request.header.cluster_id, context)
        matches = [
            pdpb_pb2.Region(region=r, leader=p)
            for r, p in self._regions()
            if (not r.end_key or r.end_key > request.start_key)
            and (not request.end_key or r.start_key < request.end_key)
        ]
        matches = [] if self.header_error else matches[: request.limit]
        return pdpb_pb2.ScanRegionsResponse(header=self._header(), regions=matches)

    def _store(
        self, request: pdpb_pb2.GetStoreRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.GetStoreResponse:
        self._called("GetStore", request.header.cluster_id, context)
        store = metapb_pb2.Store(id=request.store_id, address=self.addresses[request.store_id])
        return pdpb_pb2.GetStoreResponse(header=self._header(), store=store)

    def _stores(
        self, request: pdpb_pb2.GetAllStoresRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.GetAllStoresResponse:
        self._called("GetAllStores", request.header.cluster_id, context)
        stores = [metapb_pb2.Store(id=i, address=a) for i, a in self.addresses.items()]
        return pdpb_pb2.GetAllStoresResponse(header=self._header(), stores=[*stores, *self.put])

    def _alloc_id(
        self, request: pdpb_pb2.AllocIDRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.AllocIDResponse:
        self._called("AllocID", request.header.cluster_id, context)
        return pdpb_pb2.AllocIDResponse(header=self._header(), id=1000 + len(self.calls))

    def _put_store(
        self, request: pdpb_pb2.PutStoreRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.PutStoreResponse:
        self._called("PutStore", request.header.cluster_id, context)
        self.put.append(request.store)
        return pdpb_pb2.PutStoreResponse(header=self._header())

    def _heartbeat(
        self, request: pdpb_pb2.StoreHeartbeatRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.StoreHeartbeatResponse:
        self._called("StoreHeartbeat", request.header.cluster_id, context)
        self.heartbeats.append(request.stats)
        return pdpb_pb2.StoreHeartbeatResponse(header=self._header(), cluster_version="6.6.0")

    def _service_safe_point(
        self, request: pdpb_pb2.UpdateServiceGCSafePointRequest, context: grpc.ServicerContext
    ) -> pdpb_pb2.UpdateServiceGCSafePointResponse:
        self._called("UpdateServiceGCSafePoint", request.header.cluster_id, context)
        held = self.service_safe_points
        if request.TTL <= 0:
            held.pop(request.service_id, None)
        elif request.safe_point >= min(held.values()):
            held[request.service_id] = request.safe_point
        return pdpb_pb2.UpdateServiceGCSafePointResponse(
            header=self._header(), min_safe_point=min(held.values())
        )


class FakeTiKV:
    """The stores. Started by `with`."""

    def __init__(self, tls: TlsFiles | None = None) -> None:
        self.tls = tls
        self.cluster = SimCluster()
        self.pd = ClusterPD(self.cluster, tls)
        self.calls: list[tuple[int, str]] = []
        self.faults: list[errorpb_pb2.Error] = []
        """Errors of the next requests to regions."""
        self.failures: list[grpc.StatusCode] = []
        self.before: Callable[[str], None] = lambda _: None
        """Called with the name of each request before it is handled."""
        self.page = 1 << 30
        """The maximum number of keys in the response to a scan, regardless of its limit."""
        self._servers: dict[int, Any] = {}

    def __enter__(self) -> "FakeTiKV":
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.pd)
            for store in STORES:
                self.start_store(store)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for store in list(self._servers):
            self.stop_store(store)
        self._undo.close()

    def start_store(self, store: int) -> None:
        """Serve, at a new address."""
        server = grpc.server(ThreadPoolExecutor(4))
        calls: dict[str, tuple[Callable[..., Message], Any, Any]] = {
            "KvGet": (self._get, kvrpcpb_pb2.GetRequest, kvrpcpb_pb2.GetResponse),
            "KvScan": (self._scan, kvrpcpb_pb2.ScanRequest, kvrpcpb_pb2.ScanResponse),
            "KvCheckTxnStatus": (
                self._check_status,
                kvrpcpb_pb2.CheckTxnStatusRequest,
                kvrpcpb_pb2.CheckTxnStatusResponse,
            ),
            "KvCheckSecondaryLocks": (
                self._check_secondaries,
                kvrpcpb_pb2.CheckSecondaryLocksRequest,
                kvrpcpb_pb2.CheckSecondaryLocksResponse,
            ),
            "KvResolveLock": (
                self._resolve,
                kvrpcpb_pb2.ResolveLockRequest,
                kvrpcpb_pb2.ResolveLockResponse,
            ),
            "KvScanLock": (
                self._scan_locks,
                kvrpcpb_pb2.ScanLockRequest,
                kvrpcpb_pb2.ScanLockResponse,
            ),
            "ReadIndex": (
                self._read_index,
                kvrpcpb_pb2.ReadIndexRequest,
                kvrpcpb_pb2.ReadIndexResponse,
            ),
            "MvccGetByKey": (
                self._mvcc,
                kvrpcpb_pb2.MvccGetByKeyRequest,
                kvrpcpb_pb2.MvccGetByKeyResponse,
            ),
        }
        handlers = {
            name: unary(self._served(store, name, call, answer), request)
            for name, (call, request, answer) in calls.items()
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tikvpb.Tikv", handlers),)
        )
        self.pd.addresses[store] = bind(server, self.tls)
        server.start()
        self._servers[store] = server

    def stop_store(self, store: int) -> None:
        self._servers.pop(store).stop(0).wait()

    def put(self, pairs: dict[bytes, bytes | None]) -> TimeStamp:
        """A transaction that commits at once; its commit_ts."""
        with self.cluster.mutex:
            tikv, primary = self.cluster.tikv, min(pairs)
            start = tikv.tso()
            tikv.prewrite(start, primary, pairs)
            commit = tikv.tso()
            tikv.commit(start, commit, pairs)
            self.cluster.wrote(pairs)
            return commit

    def _served(
        self, store: int, name: str, call: Callable[..., Message], answer: type[Message]
    ) -> Callable[[Any, grpc.ServicerContext], Message]:
        def serve(request: Any, context: grpc.ServicerContext) -> Message:
            self.before(name)
            self.calls.append((store, name))
            if self.failures:
                context.abort(self.failures.pop(0), "as told")
            with self.cluster.mutex:
                region, error = self._region_error(store, request.context, _keys(request))
                if error is None and self.faults:
                    error = self.faults.pop(0)
                if error is not None or region is None:
                    return answer(region_error=error)
                return call(region, request)

        return serve

    def _region_error(
        self, store: int, context: kvrpcpb_pb2.Context, keys: Iterable[bytes]
    ) -> tuple[SimRegion | None, errorpb_pb2.Error | None]:
        region = self.cluster.regions.get(context.region_id)
        if context.peer.store_id != store:
            return None, errorpb_pb2.Error(store_not_match=errorpb_pb2.StoreNotMatch())
        if region is None:
            return None, errorpb_pb2.Error(region_not_found=errorpb_pb2.RegionNotFound())
        if region.leader != store:
            leader = leader_message(region)
            other = errorpb_pb2.NotLeader(leader=leader)
            return None, errorpb_pb2.Error(not_leader=other)
        # Reads do not check the peer.
        if context.region_epoch.version != region.epoch.version:
            now = [region_message(r) for r in self.cluster.sorted() if r.epoch == region.epoch]
            moved = errorpb_pb2.EpochNotMatch(current_regions=now)
            return None, errorpb_pb2.Error(epoch_not_match=moved)
        for key in keys:
            if key not in region:
                return None, errorpb_pb2.Error(key_not_in_region=errorpb_pb2.KeyNotInRegion())
        return region, None

    def _value(self, key: bytes, request: Any) -> bytes | None:
        context = request.context
        return self.cluster.tikv.get(
            key, request.version, context.resolved_locks, context.committed_locks
        )

    def _get(self, _: SimRegion, request: kvrpcpb_pb2.GetRequest) -> Message:
        try:
            value = self._value(request.key, request)
        except Locked as met:
            return kvrpcpb_pb2.GetResponse(
                error=kvrpcpb_pb2.KeyError(locked=lock_message(met.lock))
            )
        return kvrpcpb_pb2.GetResponse(value=value or b"", not_found=value is None)

    def _pairs(self, keys: Iterable[bytes], request: Any, limit: int) -> list[kvrpcpb_pb2.KvPair]:
        pairs: list[kvrpcpb_pb2.KvPair] = []
        for key in keys:
            if len(pairs) == limit:
                break
            try:
                value = self._value(key, request)
            except Locked as met:
                error = kvrpcpb_pb2.KeyError(locked=lock_message(met.lock))
                pairs.append(kvrpcpb_pb2.KvPair(key=key, error=error))
            else:
                if value is not None:
                    pairs.append(kvrpcpb_pb2.KvPair(key=key, value=value))
        return pairs

    def _scan_locks(self, region: SimRegion, request: kvrpcpb_pb2.ScanLockRequest) -> Message:
        locks = [
            lock_message(lock)
            for key, lock in sorted(self.cluster.tikv.locks.items())
            if key in region and lock.start_ts <= request.max_version
            if request.start_key <= key and (not request.end_key or key < request.end_key)
        ]
        return kvrpcpb_pb2.ScanLockResponse(locks=locks[: request.limit])

    def _scan(self, region: SimRegion, request: kvrpcpb_pb2.ScanRequest) -> Message:
        tikv = self.cluster.tikv
        keys = [
            key
            for key in sorted(tikv.records.keys() | tikv.locks.keys())
            if key in region
            and key >= request.start_key
            and (not request.end_key or key < request.end_key)
        ]
        pairs = self._pairs(keys, request, min(request.limit, self.page))
        return kvrpcpb_pb2.ScanResponse(pairs=pairs)

    def _check_status(self, _: SimRegion, request: kvrpcpb_pb2.CheckTxnStatusRequest) -> Message:
        check = StatusCheck(
            RawKey(request.primary_key),
            TimeStamp(request.lock_ts),
            TimeStamp(request.caller_start_ts),
            TimeStamp(request.current_ts),
            request.rollback_if_not_exist,
            request.force_sync_commit,
            request.verify_is_primary,
        )
        status = self.cluster.tikv.check_status(check, _NEVER)
        answer = kvrpcpb_pb2.CheckTxnStatusResponse(commit_version=status.commit_ts)
        if status.state is TxnState.NOT_FOUND:
            answer.error.txn_not_found.SetInParent()
        elif status.state is TxnState.MISMATCH and status.lock is not None:
            answer.error.primary_mismatch.lock_info.CopyFrom(lock_message(status.lock))
        elif status.lock is not None:
            answer.lock_info.CopyFrom(lock_message(status.lock))
            answer.lock_ttl = status.lock.ttl_ms
        return answer

    def _check_secondaries(
        self, _: SimRegion, request: kvrpcpb_pb2.CheckSecondaryLocksRequest
    ) -> Message:
        keys = [RawKey(key) for key in request.keys]
        tikv, start_ts = self.cluster.tikv, TimeStamp(request.start_version)
        (result,) = tikv.check_secondaries(keys, start_ts, _NEVER)
        return kvrpcpb_pb2.CheckSecondaryLocksResponse(
            locks=map(lock_message, result.locks), commit_ts=result.commit_ts
        )

    def _resolve(self, _: SimRegion, request: kvrpcpb_pb2.ResolveLockRequest) -> Message:
        keys = [RawKey(key) for key in request.keys]
        start_ts, commit_ts = TimeStamp(request.start_version), TimeStamp(request.commit_version)
        self.cluster.tikv.resolve(keys, start_ts, commit_ts, _NEVER)
        return kvrpcpb_pb2.ResolveLockResponse()

    def _read_index(self, region: SimRegion, request: kvrpcpb_pb2.ReadIndexRequest) -> Message:
        for keys in request.ranges:
            for key, lock in self.cluster.memory_locks.items():
                if keys.start_key <= key < keys.end_key and lock.blocks(
                    TimeStamp(request.start_ts)
                ):
                    return kvrpcpb_pb2.ReadIndexResponse(locked=lock_message(lock))
        return kvrpcpb_pb2.ReadIndexResponse(read_index=region.index)

    def _mvcc(self, _: SimRegion, request: kvrpcpb_pb2.MvccGetByKeyRequest) -> Message:
        kinds = {"P": kvrpcpb_pb2.Op.Put, "D": kvrpcpb_pb2.Op.Del, "L": kvrpcpb_pb2.Op.Lock}
        tikv = self.cluster.tikv
        records = tikv.records.get(request.key, ())
        writes = [
            kvrpcpb_pb2.MvccWrite(
                type=kinds.get(r.kind, kvrpcpb_pb2.Op.Rollback),
                start_ts=r.start_ts,
                commit_ts=r.commit_ts,
                short_value=r.value if len(r.value) < 256 else b"",
            )
            for r in records
        ]
        values = [kvrpcpb_pb2.MvccValue(start_ts=r.start_ts, value=r.value) for r in records]
        info = kvrpcpb_pb2.MvccInfo(writes=writes, values=values)
        if (lock := tikv.locks.get(request.key)) is not None:
            info.lock.start_ts = lock.start_ts
        return kvrpcpb_pb2.MvccGetByKeyResponse(info=info)


def lock_message(lock: Lock) -> kvrpcpb_pb2.LockInfo:
    """A lock as TiKV shows it."""
    return kvrpcpb_pb2.LockInfo(
        primary_lock=lock.primary,
        lock_version=lock.start_ts,
        key=lock.key,
        lock_ttl=lock.ttl_ms,
        txn_size=lock.txn_size,
        lock_type=_OPS[lock.kind],
        lock_for_update_ts=lock.for_update_ts,
        use_async_commit=lock.use_async_commit,
        min_commit_ts=lock.min_commit_ts,
        secondaries=lock.secondaries,
    )


def region_message(region: SimRegion) -> metapb_pb2.Region:
    """A region as PD and stores show it."""
    located = region.located()
    return metapb_pb2.Region(
        id=region.id,
        start_key=encode_bytes(region.start) if region.start else b"",
        end_key=encode_bytes(region.end) if region.end else b"",
        region_epoch=metapb_pb2.RegionEpoch(
            conf_ver=region.epoch.conf_ver, version=region.epoch.version
        ),
        peers=[metapb_pb2.Peer(id=p.id, store_id=p.store_id) for p in located.peers],
    )


def leader_message(region: SimRegion) -> metapb_pb2.Peer | None:
    """Its leader, as PD and stores show it."""
    leader = region.located().leader
    return None if leader is None else metapb_pb2.Peer(id=leader.id, store_id=leader.store_id)


def _keys(request: Any) -> list[bytes]:
    """The keys of a request that must be in its region."""
    for field in ("key", "primary_key", "start_key"):
        if hasattr(request, field):
            return [getattr(request, field)]
    return list(getattr(request, "keys", ()))
