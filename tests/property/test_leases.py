"""Latches against a model: two holders and one remover on a clock that tests move."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from pyspark_theflash.base.errors import LatchNotFoundError, LeaseExpiredError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import FencingToken, TimeStamp
from pyspark_theflash.storage.store.folder import StoreIdentity, create_store, open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease
from pyspark_theflash.storage.store.manifest import ManifestChange
from tests.support.manual_clock import ManualClock


class Latches(RuleBasedStateMachine):
    """The model keeps, for each lease ever granted, its kind and when it ends."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        path, fs = Path(self.folder.name) / "store", LocalFileSystem()
        create_store(path, StoreIdentity("id", "magic"), fs)
        self.manifests = [open_manifest(path, fs) for _ in range(2)]
        self.clock = ManualClock()
        self.holders = [LeaseTable(manifest, self.clock) for manifest in self.manifests]
        self.model: dict[str, tuple[LatchKind, ReadLease, int]] = {}

    def teardown(self) -> None:
        for manifest in self.manifests:
            manifest.close()
        self.folder.cleanup()

    def living(self) -> dict[str, tuple[LatchKind, ReadLease, int]]:
        return {id: entry for id, entry in self.model.items() if entry[2] > self.clock.now_ms}

    @rule(
        target=leases,
        who=st.integers(0, 1),
        ts=st.integers(0, 2**64 - 1),
        ttl_ms=st.integers(1, 200),
        kind=st.sampled_from([LatchKind.READ, LatchKind.PIN, LatchKind.ADMIN]),
    )
    def take(self, who: int, ts: int, ttl_ms: int, kind: LatchKind) -> ReadLease:
        lease = self.holders[who].take(TimeStamp(ts), ttl_ms, kind)
        assert lease.generation == self.manifests[0].head().generation
        self.model[lease.id] = kind, lease, self.clock.now_ms + ttl_ms
        return lease

    @rule(who=st.integers(0, 1), lease=leases)
    def renew(self, who: int, lease: ReadLease) -> None:
        alive = lease.id in self.living()
        try:
            self.holders[who].renew(lease)
        except LeaseExpiredError:
            assert not alive
        else:
            assert alive
            kind, _, _ = self.model[lease.id]
            self.model[lease.id] = kind, lease, self.clock.now_ms + lease.ttl_ms

    @rule(who=st.integers(0, 1), lease=leases)
    def release(self, who: int, lease: ReadLease) -> None:
        self.holders[who].release(lease)
        self.model.pop(lease.id, None)

    @rule(who=st.integers(0, 1), lease=leases)
    def remove(self, who: int, lease: ReadLease) -> None:
        alive = lease.id in self.living()
        try:
            self.holders[who].remove(lease.id)
        except LatchNotFoundError:
            assert not alive
        else:
            assert alive
            del self.model[lease.id]

    @rule(duration_ms=st.integers(1, 150))
    def wait(self, duration_ms: int) -> None:
        self.clock.now_ms += duration_ms

    @rule()
    def restart_the_machine(self) -> None:
        self.clock.boot, self.clock.now_ms = self.clock.boot + "+", 0
        self.model.clear()

    @rule()
    def publish(self) -> None:
        self.manifests[0].commit(ManifestChange(), FencingToken(0))

    @rule(who=st.integers(0, 1))
    def sweep(self, who: int) -> None:
        living = list(self.living().values())
        generations = [x.generation for kind, x, _ in living if kind is not LatchKind.PIN]
        timestamps = [x.snapshot_ts for kind, x, _ in living if kind is not LatchKind.ADMIN]
        assert self.holders[who].oldest_generation() == min(generations, default=None)
        assert self.holders[who].oldest_snapshot_ts() == min(timestamps, default=None)

    @invariant()
    def what_lives_is_listed(self) -> None:
        listed = {latch.id: latch.expires_ms for latch in self.holders[1].living()}
        assert listed == {id: expires for id, (_, _, expires) in self.living().items()}


TestLatches = Latches.TestCase
TestLatches.settings = settings(max_examples=40, stateful_step_count=25)


@pytest.mark.slow
class TestManyLatches(Latches.TestCase):
    settings = settings(max_examples=500, stateful_step_count=50)
