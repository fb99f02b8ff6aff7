"""A read at a timestamp returns the rows that exist at it after all transactions have ended.

A history of transactions, some of whose owners die at any step, and readers in between.
"""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import KeyIsLockedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.resolve import LockPolicy, LockResolver, ResolvedLocks
from tests.support.manual_clock import ManualClock
from tests.support.percolator import Locked, Percolator
from tests.support.percolator_owner import MODES, TTL_MS, Owner

KEYS = [b"m%d" % n for n in range(5)]


@dataclass
class World:
    """The cluster, its transactions, and the values read."""

    policy: LockPolicy
    tikv: Percolator = field(default_factory=Percolator)
    owners: list[Owner] = field(default_factory=list)
    max_ts: int = 0
    seen: list[tuple[int, bytes, bytes | None]] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.resolver = LockResolver(self.tikv, self.policy)

    def step(self, number: int) -> None:
        if self.owners:
            self.owners[number % len(self.owners)].step(self.tikv, self.max_ts)

    def read(self, key: bytes, ts: TimeStamp, meanwhile: list[int]) -> None:
        """As a client reads; `meanwhile` are steps of owners while it waits."""
        self.max_ts = max(self.max_ts, ts)
        steps = iter(meanwhile)

        def asleep(ms: int) -> None:
            self.tikv.pass_ms(ms)
            self.step(next(steps, 0))

        deadline = Deadline(ManualClock(asleep), 300)
        resolved = ResolvedLocks()
        while True:
            try:
                value = self.tikv.get(key, ts, resolved.ignored, resolved.committed)
            except Locked as met:
                before = self.tikv.state()
                try:
                    resolved = resolved | self.resolver.resolve([met.lock], ts, deadline)
                except KeyIsLockedError:
                    self.refused += 1
                    return
                if self.policy is LockPolicy.FAIL:
                    assert self.tikv.state() == before
                continue
            self.seen.append((ts, key, value))
            return

    def finish(self) -> None:
        """Every transaction is brought to its end, by its owner or by the next writer."""
        for owner in self.owners:
            for _ in range(2 * len(owner.keys) + 1):
                owner.step(self.tikv, self.max_ts)
        self.tikv.pass_ms(10 * TTL_MS)
        resolver = LockResolver(self.tikv, LockPolicy.RESOLVE)
        while self.tikv.locks:
            locks = list(self.tikv.locks.values())
            resolver.resolve(locks, self.tikv.tso(), Deadline(ManualClock(), 1000))


numbers = st.integers(0, 2**16)
events = st.one_of(
    st.tuples(st.just("begin"), st.permutations(KEYS), st.integers(1, 4), numbers),
    st.tuples(st.just("step"), numbers),
    st.tuples(st.just("step"), numbers),
    st.tuples(st.just("step"), numbers),
    st.tuples(st.just("die"), numbers),
    st.tuples(st.just("wait"), st.sampled_from([1, TTL_MS // 2, 2 * TTL_MS])),
    st.tuples(st.just("read"), st.sampled_from(KEYS), numbers, st.lists(numbers, max_size=8)),
)


@given(st.sampled_from(LockPolicy), st.lists(events, min_size=5, max_size=60))
def test_reads_are_repeatable_for_ever(policy: LockPolicy, history: list[tuple]) -> None:
    world = World(policy)
    tikv = world.tikv
    snapshots = [tikv.tso()]
    for name, *rest in history:
        if name == "begin":
            keys, count, number = rest
            mode = MODES[number % 3]
            world.owners.append(Owner(tikv.tso() + number % 2, list(keys)[:count], mode))
            tikv.tso()
        elif name == "step":
            world.step(rest[0])
        elif name == "die" and world.owners:
            world.owners[rest[0] % len(world.owners)].is_over = True
        elif name == "wait":
            tikv.pass_ms(rest[0])
        elif name == "read":
            key, number, meanwhile = rest
            snapshots.append(tikv.tso())
            # Below the newest snapshot, only one that was read before: async commit counts
            # on max_ts, which a read raises before it looks.
            world.read(key, snapshots[-1 - number % min(3, len(snapshots))], meanwhile)
    world.finish()
    for ts, key, value in world.seen:
        assert tikv.get(key, ts) == value
