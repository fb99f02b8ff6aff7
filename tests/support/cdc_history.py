"""Random histories of a simulated cluster, whose changes a feed must deliver."""

import random
from pathlib import Path

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.tikv.regions import RegionCache
from pyspark_theflash.replication.cdc.feed import FeedLimits, TiKVChangeFeed
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.protocol._generated.kvproto import cdcpb_pb2, errorpb_pb2
from tests.support.manual_clock import ManualClock
from tests.support.sim_cdc import CLUSTER, STORES, SimCdc, SimDirectory, SimStreams, Txn

TABLES = (5, 6, 9)
LIMITS = FeedLimits()
META = RawKeyRange.of_prefix(b"mDB")
Change = tuple[bytes, int, bytes | None]
"""key, commit_ts, value."""


def span_of(table_id: int) -> RawKeyRange:
    return RawKeyRange.of_prefix(encode_record_key(PhysicalTableID(table_id), b""))


class FeedHistory:
    """A cluster, a feed, and the changes delivered by the feed."""

    def __init__(
        self,
        seed: int,
        *,
        is_old: bool = False,
        limits: FeedLimits = LIMITS,
        folder: Path | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.sim = SimCdc(self.rng, is_old=is_old)
        self.clock = ManualClock()
        self.directory = SimDirectory(self.sim)
        self.limits, self.folder = limits, folder
        self.txns: list[Txn] = []
        self.begun: list[Txn] = []
        self.subscribed: dict[RawKeyRange, int] = {}
        self.delivered: dict[tuple[bytes, int], bytes | None] = {}
        self.keys = [
            *(bytes(encode_record_key(PhysicalTableID(t), h)) for t in TABLES for h in range(8)),
            *(encode_record_key(PhysicalTableID(TABLES[1]), b"\x01common%d" % n) for n in range(4)),
            *(b"mDB:%d" % n for n in range(4)),
            *(b"t\x80\0\0\0\0\0\0\x05_i%d" % n for n in range(3)),  # index keys
        ]
        self.restart()

    def restart(self) -> None:
        """Begin with a feed at the progress of what was taken."""
        self.streams = SimStreams(self.sim, self._asleep)
        self.feed = TiKVChangeFeed(
            RegionCache(self.directory),  # type: ignore[arg-type]
            self.streams,
            CLUSTER,
            clock=self.clock,
            folder=self.folder,
            limits=self.limits,
        )
        for span, ts in self.subscribed.items():
            self.feed.subscribe(span, TimeStamp(ts))

    def subscribe(self, span: RawKeyRange) -> None:
        """Follow a span from now on."""
        self.subscribed[span] = self.sim.tso()
        self.feed.subscribe(span, TimeStamp(self.subscribed[span]))

    def step(self) -> None:
        """Make one random step of the cluster or the feed."""
        steps = [
            (self._transaction, 10),
            (self._continue, 14),
            (self._prewrite, 4),
            (self._scan, 8),
            (self.sim.tick, 3),
            (self.poll, 8),
            (self.take, 3),
            (self._change_regions, 2),
            (self._fail, 1),
        ]
        self.rng.choices([s for s, _ in steps], [w for _, w in steps])[0]()

    def poll(self) -> None:
        self.feed.poll(self.rng.choice((0, 5, 2500)))

    def take(self) -> None:
        """Take up to the frontier or below it, and compare."""
        frontier = self.feed.resolved_ts
        up_to = self.rng.choice((frontier, frontier, max(0, frontier - self.rng.randint(1, 20))))
        for key, commit_ts, value in self.taken(up_to):
            assert self.delivered.setdefault((key, commit_ts), value) == value
        for span, since in self.subscribed.items():
            if since < up_to:
                self.subscribed[span] = up_to

    def taken(self, up_to: int) -> list[Change]:
        """Take the changes, and check that they are those committed since the last call."""
        taken = self.feed.take(TimeStamp(up_to))
        changes: set[Change] = {(c.key, c.commit_ts, c.value) for c in taken.meta}
        assert len(changes) == len(taken.meta)
        assert [c.commit_ts for c in taken.meta] == sorted(c.commit_ts for c in taken.meta)
        for versions in (*taken.versions, *taken.large):
            columns = (
                versions.table_id.tolist(),
                versions.handles.to_pylist(),
                versions.commit_ts.tolist(),
                versions.op.tolist(),
                versions.values.to_pylist(),
            )
            for table_id, handle, commit_ts, op, value in zip(*columns, strict=True):
                key = encode_record_key(table_id, handle)
                changes.add((key, commit_ts, value if op else None))
        assert changes == self.committed(up_to)
        return sorted(changes, key=lambda c: (c[1], c[0]))

    def committed(self, up_to: int) -> set[Change]:
        """Changes of the spans that the cluster has committed since the last time."""
        return {
            (key, commit_ts, value)
            for key, versions in self.sim.versions.items()
            for commit_ts, (_, value) in versions.items()
            for span, since in self.subscribed.items()
            if RawKey(key) in span and since < commit_ts <= up_to
        }

    def settle(self) -> None:
        """End all transactions and errors, and follow to the end."""
        self.directory.stale = None
        self.sim.next_errors.clear()
        for txn in self.txns:
            self._finish(txn)
        self.txns.clear()
        target = self.sim.tso()
        for _ in range(3000):
            for each in list(self.sim.downstreams):
                self.sim.scan(each, 100)
            self.sim.tick()
            self.clock.sleep_ms(10)
            self.feed.poll(100)
            if self.feed.resolved_ts >= target:
                self.take_all()
                return
        raise AssertionError(f"the frontier stays at {self.feed.resolved_ts} below {target}")

    def take_all(self) -> None:
        frontier = self.feed.resolved_ts
        self.taken(frontier)
        for span, since in self.subscribed.items():
            self.subscribed[span] = max(since, frontier)

    # Steps of the cluster.

    def _asleep(self, duration_ms: int) -> None:
        self.clock.sleep_ms(duration_ms)

    def _free_keys(self, count: int) -> list[bytes]:
        free = [key for key in self.keys if key not in self.sim.locks]
        return self.rng.sample(free, min(count, len(free)))

    def _value(self) -> bytes | None:
        return None if self.rng.random() < 0.2 else b"v%d" % self.rng.getrandbits(40)

    def _transaction(self) -> None:
        keys = self._free_keys(self.rng.choice((1, 1, 2, 5, 12)))
        if not keys:
            return
        if self.rng.random() < 0.3:
            region = self.sim.region_of(keys[0])
            self.sim.one_phase({key: self._value() for key in keys if key in region})
            return
        txn = self.sim.begin({key: self._value() for key in keys})
        if self.rng.random() < 0.3:
            self.begun.append(txn)
            return
        if self.rng.random() < 0.15:  # pipelined: values are overwritten by a later flush
            txn.generation = 2
            early = [k for k in keys if txn.writes[k] is not None and self.rng.random() < 0.5]
            self.sim.prewrite(txn, early, generation=1)
            self.sim.prewrite(txn, keys, generation=2)
        else:
            self.sim.prewrite(txn, keys)
        self.txns.append(txn)

    def _prewrite(self) -> None:
        """Prewrite the keys of a transaction that began before; a pessimistic one locks late."""
        if self.begun:
            txn = self.begun.pop(self.rng.randrange(len(self.begun)))
            txn.writes = {k: v for k, v in txn.writes.items() if k not in self.sim.locks}
            if txn.writes:
                self.sim.prewrite(txn, txn.writes)
                self.txns.append(txn)

    def _continue(self) -> None:
        if not self.txns:
            return
        txn = self.rng.choice(self.txns)
        locked = [key for key in txn.writes if self.sim.locks.get(key, (None, 0))[0] is txn]
        action = self.rng.random()
        if action < 0.15:
            self.sim.heartbeat(txn, self.rng.choice(locked))
        elif action < 0.3 and not txn.commit_ts:
            self.sim.roll_back(txn, locked, is_silent=self.rng.random() < 0.3)
            self.txns.remove(txn)
        else:
            self.sim.commit(txn, locked[: self.rng.randint(1, len(locked))])
            if all(self.sim.locks.get(key, (None, 0))[0] is not txn for key in txn.writes):
                self.txns.remove(txn)

    def _finish(self, txn: Txn) -> None:
        self.sim.commit(txn, [k for k in txn.writes if self.sim.locks.get(k, (None, 0))[0] is txn])

    def _scan(self) -> None:
        waiting = [each for each in self.sim.downstreams if not each.is_initialized]
        if waiting:
            self.sim.scan(self.rng.choice(waiting), self.rng.randint(1, 6))

    def _change_regions(self) -> None:
        action = self.rng.random()
        if action < 0.45:
            self.sim.split(self.rng.choice([*self.keys, b"n", b"t\x80\0\0\0\0\0\0\x06"]))
        elif action < 0.75:
            self.sim.merge(self.rng.choice(self.sim.regions))
        else:
            region, store = self.rng.choice(self.sim.regions), self.rng.choice(STORES)
            self.sim.move_leader(region, store, names_leader=self.rng.random() < 0.6)
        if self.rng.random() < 0.2:
            self.directory.stale = None
        elif self.rng.random() < 0.1:
            self.directory.freeze()

    def _fail(self) -> None:
        action = self.rng.random()
        if action < 0.3 and self.sim.downstreams:
            self.sim.fail(self.rng.choice(self.sim.downstreams), self._error())
        elif action < 0.5:
            self.sim.next_errors.append(self._error())
        elif action < 0.8:
            streams = [each for each in self.streams.open_streams if each.is_open]
            if streams:
                self.sim.cut(self.rng.choice(streams))
        else:
            self.feed.close()
            self.restart()

    def _error(self) -> cdcpb_pb2.Error:
        return self.rng.choice(
            [
                cdcpb_pb2.Error(server_is_busy=errorpb_pb2.ServerIsBusy(reason="scans")),
                cdcpb_pb2.Error(congested=cdcpb_pb2.Congested(region_id=1)),
                cdcpb_pb2.Error(region_not_found=errorpb_pb2.RegionNotFound()),
                cdcpb_pb2.Error(not_leader=errorpb_pb2.NotLeader()),
                cdcpb_pb2.Error(duplicate_request=cdcpb_pb2.DuplicateRequest(region_id=1)),
                cdcpb_pb2.Error(),
            ]
        )
