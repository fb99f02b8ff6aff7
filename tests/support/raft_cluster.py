"""PD and TiKV for a command that learns: regions are a `raft_tikv.FakeTikv`'s, and so are read
indexes; a `Sender` is its raft log's way into the command."""

import threading
from collections.abc import Mapping

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.types import RegionEpoch, TimeStamp
from pyspark_theflash.cluster.resolve import StatusCheck, TxnState, TxnStatus
from pyspark_theflash.tidb.codec.bytes import decode_bytes
from pyspark_theflash.tikv.command import Applied
from tests.support.engine_client import CommandStream, EngineClient
from tests.support.fake_tikv import ClusterPD, FakeTiKV
from tests.support.percolator import Percolator
from tests.support.raft_tikv import FakeRaftCluster, FakeRegion, batch
from tests.support.sim_cluster import SimCluster, SimRegion

LEADER = 1


class Ends(Percolator):
    """Transactions with given outcomes: start_ts -> commit_ts; all others are rolled back."""

    def __init__(self, ends: Mapping[int, int], now_ms: int) -> None:
        super().__init__(now_ms)
        self.ends = ends

    def check_status(self, check: StatusCheck, deadline: Deadline) -> TxnStatus:
        commit_ts = self.ends.get(check.start_ts, 0)
        if not commit_ts:
            return TxnStatus(TxnState.ROLLED_BACK)
        return TxnStatus(TxnState.COMMITTED, TimeStamp(commit_ts))


class RaftCluster(SimCluster):
    """The regions of a `FakeRaftCluster`, led by one store. `mutex` is held while it is changed."""

    def __init__(self, raft: FakeRaftCluster, transactions: Percolator) -> None:
        super().__init__()
        self.raft, self.tikv = raft, transactions

    @property
    def regions(self) -> dict[int, SimRegion]:
        with self.mutex:
            return {region.id: _region(region) for region in self.raft.regions.values()}

    @regions.setter
    def regions(self, _: dict[int, SimRegion]) -> None:
        """The regions of the `FakeRaftCluster`."""


def _region(region: FakeRegion) -> SimRegion:
    epoch = RegionEpoch(region.conf_ver, region.version)
    start, end = _raw(region.start), _raw(region.end)
    return SimRegion(region.id, start, end, epoch, LEADER, region.index)


def _raw(key: bytes) -> bytes:
    return decode_bytes(key)[0] if key else b""


def cluster_of(raft: FakeRaftCluster, transactions: Percolator) -> FakeTiKV:
    """PD and the stores, to be started by `with`."""
    tikv = FakeTiKV()
    tikv.cluster = RaftCluster(raft, transactions)
    tikv.pd = ClusterPD(tikv.cluster)
    return tikv


class Sender:
    """Sends a log's entries; after each connection, from the first that is not durable."""

    def __init__(self, raft: FakeRaftCluster, mutex: threading.RLock) -> None:
        self._raft, self._mutex = raft, mutex
        self.durable: dict[int, int] = {}
        """Region -> the index up to which entries are durable."""
        self._client: EngineClient | None = None
        self._stream: CommandStream | None = None
        self._sent = 0

    def connect(self, address: str) -> None:
        """Connect, and forget the state of the previous connection."""
        self.close()
        self._client = EngineClient(address)
        self._stream = self._client.commands(600)
        with self._mutex:
            places = (
                place
                for place, (region, index, _) in enumerate(self._raft.log)
                if index > self.durable.get(region, 0)
            )
            self._sent = next(places, len(self._raft.log))

    def install(self, region: FakeRegion) -> None:
        """Send a snapshot of a region."""
        with self._mutex:
            chunks, index = list(self._raft.snapshot(region, 500)), region.index
        assert self._client is not None
        self._client.install(chunks)
        self.durable[region.id] = index

    def send(self) -> None:
        """Send all entries of the log so far."""
        while True:
            with self._mutex:
                entries = self._raft.log[self._sent :][:200]
            if not entries:
                return
            self._sent += len(entries)
            assert self._stream is not None
            self._note(self._stream.send(batch(entry for _, _, entry in entries)))

    def _note(self, answers: list[Applied]) -> None:
        for each in answers:
            if each.state is not None:
                before = self.durable.get(each.region_id, 0)
                self.durable[each.region_id] = max(before, each.state.applied_index)

    def close(self) -> None:
        if self._client is not None:
            self._client.__exit__()
            self._client = self._stream = None
