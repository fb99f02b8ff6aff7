"""Grants against a model: callers acquire, renew and release latches while time passes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyspark_theflash.base.errors import LatchHeldError, LatchLostError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import RegionID
from pyspark_theflash.storage.store.folder import StoreIdentity, create_store, open_manifest
from pyspark_theflash.storage.store.latch.latch import (
    LatchClaim,
    LatchKind,
    LatchRequest,
    LatchScope,
)
from pyspark_theflash.storage.store.latch.queue import LatchQueue
from tests.support.manual_clock import ManualClock

KINDS = (
    (LatchKind.READ, False),
    (LatchKind.WRITE, False),
    (LatchKind.ADMIN, False),
    (LatchKind.ADMIN, True),
)
PATHS = ((), (7,), (7, 71), (7, 71, 3), (7, 71, 4), (7, 72), (8,))


def contains(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    return inner[: len(outer)] == outer


class Callers(RuleBasedStateMachine):
    """The model has the holders of latches with their ends, and its own rule of exclusion."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        path, fs = Path(self.folder.name) / "store", LocalFileSystem()
        create_store(path, StoreIdentity("id", "magic"), fs)
        self.manifests = [open_manifest(path, fs) for _ in range(2)]
        self.clock = ManualClock()
        self.services = [LatchQueue(manifest, self.clock) for manifest in self.manifests]
        self.held: dict[LatchClaim, tuple[bool, tuple[int, ...], int, int]] = {}
        self.newest_token = 0

    def teardown(self) -> None:
        for manifest in self.manifests:
            manifest.close()
        self.folder.cleanup()

    def living(self) -> dict[LatchClaim, tuple[bool, tuple[int, ...], int, int]]:
        return {key: grant for key, grant in self.held.items() if grant[2] > self.clock.now_ms}

    @rule(
        service=st.integers(0, 1),
        who=st.sampled_from("abc"),
        kind=st.sampled_from(KINDS),
        path=st.sampled_from(PATHS),
        ttl_ms=st.integers(1, 200),
    )
    def acquire(
        self,
        service: int,
        who: str,
        kind: tuple[LatchKind, bool],
        path: tuple[int, ...],
        ttl_ms: int,
    ) -> None:
        table, physical, region = [*path, None, None, None][:3]
        scope = LatchScope(table, physical, None if region is None else RegionID(region))
        wanted = LatchRequest(kind[0], scope, ttl_ms, who, "", kind[1])
        excludes = kind in (KINDS[1], KINDS[3])
        in_the_way = excludes and any(
            other and (contains(path, held) or contains(held, path))
            for other, held, _, _ in self.living().values()
        )
        try:
            latch = self.services[service].acquire(wanted)
        except LatchHeldError:
            assert in_the_way
            return
        assert not in_the_way
        assert latch.grant is not None
        assert latch.grant.token > self.newest_token
        self.newest_token = latch.grant.token
        key = latch.claim
        self.held[key] = excludes, path, self.clock.now_ms + ttl_ms, ttl_ms

    @rule(service=st.integers(0, 1), which=st.randoms(), release=st.booleans())
    def use(self, service: int, which: object, release: bool) -> None:
        if not self.held:
            return
        # In the order of the grants: ids are random, and Hypothesis repeats its choices.
        key = which.choice(list(self.held))  # type: ignore[attr-defined]
        alive = key in self.living()
        queue = self.services[service]
        try:
            queue.release(key) if release else queue.renew(key)
        except LatchLostError:
            assert not alive
            return
        assert alive
        if release:
            del self.held[key]
        else:
            excludes, path, _, ttl_ms = self.held[key]
            self.held[key] = excludes, path, self.clock.now_ms + ttl_ms, ttl_ms

    @rule(duration_ms=st.integers(1, 150))
    def wait(self, duration_ms: int) -> None:
        self.clock.now_ms += duration_ms

    @rule()
    def restart_the_machine(self) -> None:
        self.clock.boot, self.clock.now_ms = self.clock.boot + "+", 0
        self.held = {key: (*grant[:2], 0, grant[3]) for key, grant in self.held.items()}

    @invariant()
    def a_commit_is_let_through_while_all_its_latches_live(self) -> None:
        living = self.living()
        for key in self.held:
            with self.manifests[0].transient_transaction(write=True) as db:
                try:
                    self.services[0].guard([key])(db)
                    assert key in living
                except LatchLostError:
                    assert key not in living


TestCallers = Callers.TestCase
TestCallers.settings = settings(max_examples=30, stateful_step_count=25)


@pytest.mark.slow
class TestManyCallers(Callers.TestCase):
    settings = settings(max_examples=400, stateful_step_count=50)
