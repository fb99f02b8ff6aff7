"""PD's calls about regions and stores, against a fake PD."""

import pytest

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.errors import (
    PDRefusedError,
    PDUnavailableError,
)
from pyspark_theflash.base.types import RegionEpoch, RegionID
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.wire.directory import Directory, Store, StoreStats
from pyspark_theflash.tidb.codec.key import RawKey


@pytest.fixture
def directory(client: TiKVClient) -> Directory:
    return client.directory


def test_regions(tikv, directory, soon):
    tikv.cluster.split(b"m")
    left = directory.region_of(RawKey(b"a"), soon)
    assert (left.range, left.epoch) == (RawKeyRange(b"", b"m"), RegionEpoch(1, 2))
    assert [p.store_id for p in left.peers] == [1, 2, 3]
    assert left.leader == left.peers[0]
    right = directory.region_of(RawKey(b"m"), soon)
    assert right.range == RawKeyRange(b"m", b"")
    assert directory.region(right.id, soon) == right
    assert directory.region(RegionID(99), soon) is None
    assert directory.scan_regions(RawKeyRange(RawKey(b""), RawKey(b"")), soon) == [left, right]
    assert directory.scan_regions(RawKeyRange(RawKey(b"n"), RawKey(b"o")), soon) == [right]
    tikv.cluster.move_leader(b"a", 0)
    assert directory.region_of(RawKey(b"a"), soon).leader is None


def test_a_bound_that_is_no_key(tikv, directory, soon):
    tikv.pd.freeze()
    tikv.pd.stale[0][0].end_key = b"abc"
    with pytest.raises(PDRefusedError, match="ends within a group"):
        directory.region_of(RawKey(b"a"), soon)


def test_stores(tikv, directory, soon):
    assert directory.new_id(soon) != directory.new_id(soon)
    ours = Store(9, "127.0.0.1:1", labels=(("engine", "tiflash"),), version="6.6.0", start_s=5)
    directory.put_store(ours, soon)
    stores = directory.stores(soon)
    assert [s.address for s in stores[:3]] == list(tikv.pd.addresses.values())
    assert stores[3] == ours
    assert directory.store(2, soon) == stores[1]
    stats = StoreStats(9, 1000, 400, 600, 3, 5)
    assert directory.heartbeat(stats, soon) == "6.6.0"
    (seen,) = tikv.pd.heartbeats
    assert (seen.store_id, seen.capacity, seen.used_size, seen.region_count) == (9, 1000, 600, 3)


def test_errors_of_pd(tikv, directory, soon):
    tikv.pd.header_error = "no"
    with pytest.raises(PDRefusedError, match="error 1: no"):
        directory.stores(soon)


def test_a_cluster_without_stores(tikv, directory, soon):
    directory.tso(soon)
    tikv.pd.header_error, tikv.pd.header_error_type = "cluster is not bootstrapped", 2
    assert directory.region_of(RawKey(b"a"), soon) is None
    assert directory.scan_regions(RawKeyRange(RawKey(b""), RawKey(b"")), soon) == []


def test_calls_end_by_their_deadline(tikv, directory):
    tikv.pd.no_leader = True
    clock = SystemClock()
    before_ms = clock.boottime_ms()
    with pytest.raises(PDUnavailableError):
        directory.stores(Deadline(clock, 200))
    assert clock.boottime_ms() - before_ms < 1500
