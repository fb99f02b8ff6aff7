"""PD's calls about regions, stores and service safe points."""

from typing import Final

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.wire import region as wire
from pyspark_theflash.cluster.tikv.wire.region import Store, StoreStats
from pyspark_theflash.tidb.codec.key import RawKey

SCAN_LIMIT: Final = 128
"""The maximum number of regions that `scan_regions` returns."""


class Directory:
    """Regions and stores in PD. Methods raise the errors of `PDClient`, and end by the deadline."""

    def __init__(self, pd: PDClient) -> None:
        self._pd = pd

    def tso(self, deadline: Deadline) -> TimeStamp:
        """Return a timestamp greater than all that PD has allocated before this call."""
        return self._pd.tso(deadline.left_ms())

    def region_of(self, key: RawKey, deadline: Deadline) -> LocatedRegion | None:
        """Return the region that contains a key; None if PD has none."""
        return self._pd.call(
            wire.GET_REGION,
            lambda cluster: wire.encode_region_request(cluster, key),
            wire.decode_region,
            deadline.left_ms(),
        )

    def region(self, region_id: RegionID, deadline: Deadline) -> LocatedRegion | None:
        """Return a region by id; None if PD has none."""
        return self._pd.call(
            wire.GET_REGION_BY_ID,
            lambda cluster: wire.encode_region_by_id_request(cluster, region_id),
            wire.decode_region,
            deadline.left_ms(),
        )

    def scan_regions(self, keys: RawKeyRange, deadline: Deadline) -> list[LocatedRegion]:
        """Return the first `SCAN_LIMIT` regions of a range, by key, possibly with gaps."""
        return self._pd.call(
            wire.SCAN_REGIONS,
            lambda cluster: wire.encode_scan_request(cluster, keys, SCAN_LIMIT),
            wire.decode_regions,
            deadline.left_ms(),
        )

    def store(self, store_id: int, deadline: Deadline) -> Store:
        """Return a store by id."""
        return self._pd.call(
            wire.GET_STORE,
            lambda cluster: wire.encode_store_request(cluster, store_id),
            wire.decode_store,
            deadline.left_ms(),
        )

    def stores(self, deadline: Deadline) -> list[Store]:
        """Return all stores except tombstones."""
        return self._pd.call(
            wire.GET_ALL_STORES,
            wire.encode_stores_request,
            wire.decode_stores,
            deadline.left_ms(),
        )

    def new_id(self, deadline: Deadline) -> int:
        """Allocate an id that no store, region or peer of the cluster has."""
        return self._pd.call(
            wire.ALLOC_ID, wire.encode_alloc_id, wire.decode_alloc_id, deadline.left_ms()
        )

    def put_store(self, store: Store, deadline: Deadline) -> None:
        """Register a store under an id from `new_id`, or update its record."""
        self._pd.call(
            wire.PUT_STORE,
            lambda cluster: wire.encode_put_store(cluster, store),
            wire.decode_put_store,
            deadline.left_ms(),
        )

    def heartbeat(self, stats: StoreStats, deadline: Deadline) -> str:
        """Send a store's heartbeat, due about every ten seconds. Returns the cluster's version."""
        return self._pd.call(
            wire.STORE_HEARTBEAT,
            lambda cluster: wire.encode_heartbeat(cluster, stats),
            wire.decode_heartbeat,
            deadline.left_ms(),
        )

    def hold_safe_point(
        self, service: str, safe_point: TimeStamp, ttl_s: int, deadline: Deadline
    ) -> TimeStamp:
        """Set a service safe point, which keeps TiKV's GC at or below it for `ttl_s`; 0 removes it.

        Returns the lowest safe point of all services. If it is above `safe_point`, the request was
        too late, and nothing is held.
        """
        return self._pd.call(
            wire.UPDATE_SERVICE_SAFE_POINT,
            lambda cluster: wire.encode_service_safe_point(cluster, service, safe_point, ttl_s),
            wire.decode_service_safe_point,
            deadline.left_ms(),
        )
