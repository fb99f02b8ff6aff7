"""PD's regions and stores, and our own entry among the stores."""

from typing import Final

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.types import RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.tikv.wire import region as wire
from pyspark_theflash.cluster.tikv.wire.region import Store, StoreStats
from pyspark_theflash.tidb.codec.key import RawKey

SCAN_LIMIT: Final = 128
"""Regions an answer of `scan_regions` has at most."""


class Directory:
    """Asks PD. Methods raise as `PDClient` does, and end by the deadline they are given."""

    def __init__(self, pd: PDClient) -> None:
        self._pd = pd

    def tso(self, deadline: Deadline) -> TimeStamp:
        """A timestamp above every one handed out before this call."""
        return self._pd.tso(deadline.left_ms())

    def region_of(self, key: RawKey, deadline: Deadline) -> LocatedRegion | None:
        """The region that a key is in; None while PD knows none."""
        return self._pd.call(
            wire.GET_REGION,
            lambda cluster: wire.encode_region_request(cluster, key),
            wire.decode_region,
            deadline.left_ms(),
        )

    def region_before(self, key: RawKey, deadline: Deadline) -> LocatedRegion | None:
        """The region before the one that a key is in; None if that is the first."""
        return self._pd.call(
            wire.GET_PREV_REGION,
            lambda cluster: wire.encode_region_request(cluster, key),
            wire.decode_region,
            deadline.left_ms(),
        )

    def region(self, region_id: RegionID, deadline: Deadline) -> LocatedRegion | None:
        """A region by its id."""
        return self._pd.call(
            wire.GET_REGION_BY_ID,
            lambda cluster: wire.encode_region_by_id_request(cluster, region_id),
            wire.decode_region,
            deadline.left_ms(),
        )

    def scan_regions(self, keys: RawKeyRange, deadline: Deadline) -> list[LocatedRegion]:
        """The first `SCAN_LIMIT` regions of a range, by key. There may be gaps between them."""
        return self._pd.call(
            wire.SCAN_REGIONS,
            lambda cluster: wire.encode_scan_request(cluster, keys, SCAN_LIMIT),
            wire.decode_regions,
            deadline.left_ms(),
        )

    def store(self, store_id: int, deadline: Deadline) -> Store:
        """A store by its id."""
        return self._pd.call(
            wire.GET_STORE,
            lambda cluster: wire.encode_store_request(cluster, store_id),
            wire.decode_store,
            deadline.left_ms(),
        )

    def stores(self, deadline: Deadline) -> list[Store]:
        """All stores but those that have left for good."""
        return self._pd.call(
            wire.GET_ALL_STORES,
            wire.encode_stores_request,
            wire.decode_stores,
            deadline.left_ms(),
        )

    def new_id(self, deadline: Deadline) -> int:
        """A number that no store, region or peer of the cluster has."""
        return self._pd.call(
            wire.ALLOC_ID, wire.encode_alloc_id, wire.decode_alloc_id, deadline.left_ms()
        )

    def put_store(self, store: Store, deadline: Deadline) -> None:
        """Register a store, under a `new_id`, or change what PD has of it."""
        self._pd.call(
            wire.PUT_STORE,
            lambda cluster: wire.encode_put_store(cluster, store),
            wire.decode_put_store,
            deadline.left_ms(),
        )

    def heartbeat(self, stats: StoreStats, deadline: Deadline) -> str:
        """Say that a store is alive, every ten seconds or so; the cluster's version."""
        return self._pd.call(
            wire.STORE_HEARTBEAT,
            lambda cluster: wire.encode_heartbeat(cluster, stats),
            wire.decode_heartbeat,
            deadline.left_ms(),
        )

    def hold_safe_point(
        self, service: str, safe_point: TimeStamp, ttl_s: int, deadline: Deadline
    ) -> TimeStamp:
        """Keep garbage collection below a timestamp for a while, 0 to let go.

        Returns the lowest that any service holds: if it is above `safe_point`, that came too late,
        and nothing is held.
        """
        return self._pd.call(
            wire.UPDATE_SERVICE_SAFE_POINT,
            lambda cluster: wire.encode_service_safe_point(cluster, service, safe_point, ttl_s),
            wire.decode_service_safe_point,
            deadline.left_ms(),
        )
