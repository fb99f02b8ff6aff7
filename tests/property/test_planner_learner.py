"""A learner read returns the rows that exist at its timestamp after all transactions have ended.

Regions split and change leaders, the replica applies in any order over regions and late, owners of
transactions go on, and die, between and in the middle of the reader's steps.
"""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import KeyIsLockedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.lock import Lock, LockKind
from pyspark_theflash.cluster.resolve import LockPolicy, LockResolver
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tikv.learner_read import CatchUp
from tests.support.manual_clock import ManualClock
from tests.support.percolator_owner import MODES, TTL_MS, Owner
from tests.support.sim_learner import LoggedCluster, LoggedTransactions, SimReplica

KEYS = [b"m%d" % n for n in range(8)]
RANGES = [RawKeyRange(RawKey(b"m1"), RawKey(b"m4")), RawKeyRange(RawKey(b"m4\0"), RawKey(b"n"))]

numbers = st.integers(0, 2**16)
events = st.one_of(
    st.tuples(st.just("begin"), st.permutations(KEYS), st.integers(1, 4), numbers),
    *[st.tuples(st.just("step"), numbers)] * 4,
    *[st.tuples(st.just("apply"), numbers)] * 3,
    st.tuples(st.just("memory"), numbers),
    st.tuples(st.just("die"), numbers),
    st.tuples(st.just("wait"), st.sampled_from([1, TTL_MS // 2, 2 * TTL_MS])),
    st.tuples(st.just("split"), st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("leader"), st.sampled_from(KEYS)),
)


class World:
    """Events happen whenever the reader could be overtaken; when they are over, all is applied."""

    def __init__(self, happening: Iterator[tuple]) -> None:
        self.cluster = LoggedCluster()
        self.replica = SimReplica(self.cluster)
        self.transactions = LoggedTransactions(self.cluster)
        self.owners: list[Owner] = []
        self._happening = happening
        self.cluster.tick = self.tick

    def tick(self) -> None:
        event = next(self._happening, None)
        self.forget_written()
        if event is None:
            # A request arrives eventually.
            for owner in self.owners:
                if owner.reserved:
                    self.happens("step", self.owners.index(owner))
            self.replica.apply_all()
        else:
            self.happens(*event)

    def happens(self, name: str, *rest: object) -> None:
        cluster, tikv, owners = self.cluster, self.cluster.tikv, self.owners
        if name == "begin":
            keys, count, number = rest
            owners.append(Owner(tikv.tso() + number % 2, list(keys)[:count], MODES[number % 3]))
            tikv.tso()
        elif name == "apply":
            self.replica.apply(rest[0])
        elif name == "wait":
            tikv.pass_ms(rest[0])
        elif name == "split":
            cluster.split(rest[0], new_is_left=rest[1])
        elif name == "leader":
            cluster.move_leader(rest[0])
        elif owners:
            owner = owners[rest[0] % len(owners)]
            if name == "die":
                owner.is_over = True
            elif name == "memory":
                self.reserve(owner)
            else:
                cluster.run(lambda: owner.step(tikv, cluster.max_ts))
                self.forget_written()

    def reserve(self, owner: Owner) -> None:
        """The leader calculates a min_commit_ts, and has the lock in memory until it is logged."""
        key = owner.next_key()
        if key is not None and key not in self.cluster.memory_locks and not owner.reserved:
            owner.reserved = max(self.cluster.max_ts, owner.start_ts) + 1
            at = (
                TimeStamp(owner.start_ts),
                100,
                None,
                TimeStamp(0),
                1,
                TimeStamp(owner.reserved),
                True,
            )
            lock = Lock(RawKey(key), LockKind.PUT, RawKey(owner.keys[0]), *at)
            self.cluster.memory_locks[key] = lock

    def forget_written(self) -> None:
        reserved = {(o.start_ts, o.next_key()) for o in self.owners if o.reserved and not o.is_over}
        locks = self.cluster.memory_locks
        for key in [k for k, lock in locks.items() if (lock.start_ts, k) not in reserved]:
            del locks[key]

    def finish(self) -> None:
        for owner in self.owners:
            for _ in range(2 * len(owner.keys) + 1):
                owner.step(self.cluster.tikv, self.cluster.max_ts)
        self.cluster.tikv.pass_ms(10 * TTL_MS)
        resolver = LockResolver(self.cluster.tikv, LockPolicy.RESOLVE)
        while self.cluster.tikv.locks:
            locks = list(self.cluster.tikv.locks.values())
            resolver.resolve(locks, self.cluster.tikv.tso(), Deadline(ManualClock(), 1000))


@given(
    st.sampled_from(LockPolicy),
    st.lists(events, max_size=40),
    st.lists(events, max_size=60),
)
def test_learner_reads(policy: LockPolicy, before: list[tuple], meanwhile: list[tuple]) -> None:
    world = World(iter(meanwhile))
    for event in before:
        world.happens(*event)
    ts = world.cluster.tikv.tso()

    def asleep(ms: int) -> None:
        world.cluster.tikv.pass_ms(ms)
        world.tick()

    deadline = Deadline(ManualClock(asleep), 5000)
    resolver = LockResolver(world.transactions, policy)
    wanted = [key for key in KEYS if any(key in keys for keys in RANGES)]
    try:
        pairs = read(world, resolver, ts, wanted, deadline)
    except KeyIsLockedError:
        assert policy is not LockPolicy.RESOLVE
        return
    world.finish()
    values = {key: world.cluster.tikv.get(key, ts) for key in wanted}
    assert pairs == [(key, value) for key, value in values.items() if value is not None]


def read(
    world: World, resolver: LockResolver, ts: TimeStamp, wanted: list[bytes], deadline: Deadline
) -> list[tuple[bytes, bytes]]:
    def open_at(versions):
        world.tick()
        return world.replica.open_at(RANGES, versions)

    view = CatchUp(world.cluster, world.replica, resolver, ts).open(RANGES, open_at, deadline)
    world.tick()
    locks = [lock for key, lock in view.locks.items() if key in wanted]
    through = resolver.resolve(locks, ts, deadline)
    values = [(key, view.get(key, ts, through.ignored, through.committed)) for key in wanted]
    return [(key, value) for key, value in values if value is not None]
