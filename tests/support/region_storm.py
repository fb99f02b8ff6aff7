"""Regions that split, merge, are lost and come back, while their rows change."""

import random
from collections.abc import Iterable
from typing import Protocol

from tests.support.raft_tikv import FakeRaftCluster, FakeRegion


class Followed(Protocol):
    """A fake TiKV and a learner that follows it."""

    @property
    def tikv(self) -> FakeRaftCluster: ...

    def catch_up(self, rng: random.Random, without: frozenset[int]) -> None:
        """Send the commands since the last call, except those of these regions."""

    def send(self, entries: Iterable[bytes]) -> None:
        """Send commands that are in no log."""

    def install(self, region: FakeRegion) -> None:
        """Send a region's snapshot."""

    def flush(self) -> None:
        """Flush the learner."""


class Storm:
    """Random operations on regions, one per step; a region may be lost at any time."""

    def __init__(self, followed: Followed, rng: random.Random, regions_max: int = 1 << 30) -> None:
        self.followed, self.tikv, self.rng = followed, followed.tikv, rng
        self.lost: FakeRegion | None = None
        self._regions_max = regions_max

    @property
    def without(self) -> frozenset[int]:
        return frozenset({self.lost.id}) if self.lost else frozenset()

    def step(self) -> str:
        """Execute one operation after the learner has applied all earlier ones."""
        self.followed.catch_up(self.rng, self.without)
        actions = [self.split, self.split, self.merge, self.admin, self.lose, self.come_back]
        action = self.rng.choice([*actions, self.snapshot_again, self.followed.flush])
        action()
        return action.__name__

    def split(self) -> None:
        region = self.rng.choice(self.some())
        if region is self.lost or len(self.tikv.regions) >= self._regions_max:
            return
        keys = sorted(k for k in self.tikv.writes if region.contains(k) and k > region.start)
        if keys:
            chosen = sorted(self.rng.sample(keys, min(len(keys), self.rng.choice([1, 1, 3]))))
            self.tikv.split(chosen, right_derive=self.rng.random() < 0.7)

    def merge(self) -> None:
        regions = self.some()
        if len(regions) < 2:
            return
        at = self.rng.randrange(len(regions) - 1)
        pair = [regions[at], regions[at + 1]]
        if self.lost in pair:
            return
        self.rng.shuffle(pair)
        self.tikv.merge(*pair, roll_back=self.rng.random() < 0.2)

    def admin(self) -> None:
        self.tikv.change_nothing(self.rng.choice(self.some()), self.rng)

    def lose(self) -> None:
        if self.lost is None and len(self.some()) > 3:
            self.lost = self.rng.choice(self.some())
            if self.rng.random() < 0.5:
                self.followed.send([self.tikv.destroy(self.lost)])

    def come_back(self) -> None:
        if self.lost is not None:
            self.followed.install(self.lost)
            self.lost = None

    def snapshot_again(self) -> None:
        region = self.rng.choice(self.some())
        if region is not self.lost:
            self.followed.install(region)

    def some(self) -> list[FakeRegion]:
        return sorted(self.tikv.regions.values(), key=lambda r: r.start)

    def end(self) -> None:
        self.followed.catch_up(self.rng, self.without)
        self.come_back()
        self.followed.catch_up(self.rng, frozenset())
