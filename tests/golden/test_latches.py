"""Scripts of latches: grants, the queue of waiters, and the end of latches.

    acquire    ask for a latch without waiting; `id` names it where a caller has several
    queue      ask for a latch in a process that waits up to `wait` ms while the script goes on
    crash      kill a process that waits
    sleep      let time pass; waiters look again after each half second, and at the end
    reboot     restart the machine, and so the clock that measures latches
    renew      start the time of a latch over
    release    end a latch
    commit     commit a change to the store under a latch
    waiting    list the waiters in the order of the queue
    read       pin a timestamp as a reader does
    done       end such a pin
    pinned     show the oldest pinned timestamp, which garbage collection must not pass

A kind is read, write, admin, or mutating: an admin latch under which something is changed. A scope
is `store`, or the ids of a table, a partition of it and a region of that: `7/71/3`.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import CallCancelledError, TheFlashError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import FencingToken, TimeStamp
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.latch import Latch, LatchKind, LatchRequest, LatchScope
from pyspark_theflash.storage.store.latch.lease import LeaseTable, ReadLease
from pyspark_theflash.storage.store.latch.queue import LatchQueue
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.script import check_script
from tests.support.golden_scripts import script_paths
from tests.support.manual_clock import ManualClock

FS = LocalFileSystem()
STEP_MS = 500


class WaitingClock(ManualClock):
    """The script's clock as a waiter sees it: sleeping on it lets the script go on."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.looks, self.rests = threading.Semaphore(0), threading.Semaphore(0)

    def boottime_ms(self) -> int:
        return self._clock.boottime_ms()

    def boot_id(self) -> str:
        return self._clock.boot_id()

    def sleep_ms(self, duration_ms: int) -> None:
        self.rests.release()
        self.looks.acquire()


class Waiter:
    """A caller that waits in a thread, which runs only inside `look`."""

    def __init__(self, store: Path, clock: ManualClock, wanted: LatchRequest, wait_ms: int) -> None:
        self.outcome: Latch | TheFlashError | None = None
        self._store, self._clock = store, WaitingClock(clock)
        self._wanted, self._wait_ms, self._is_gone = wanted, wait_ms, False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._clock.rests.acquire()

    def look(self) -> None:
        """Let it check whether the latch can be granted, until it sleeps again or ends."""
        self._clock.looks.release()
        self._clock.rests.acquire()

    def end(self) -> None:
        """End the thread."""
        self._is_gone = True
        self._clock.looks.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            with closing(open_manifest(self._store, FS)) as manifest:
                queue = LatchQueue(manifest, self._clock, lambda: self._wanted.name)
                self.outcome = queue.acquire(self._wanted, wait_ms=self._wait_ms, check=self._check)
        except TheFlashError as error:
            self.outcome = error
        finally:
            self._clock.rests.release()

    def _check(self) -> None:
        if self._is_gone:
            raise CallCancelledError("AcquireLatch")


class Latches:
    """The latches of a store, on a clock that the script moves."""

    def __init__(self, folder: Path) -> None:
        self._store, self._clock = folder / "store", ManualClock()
        registry.create(self._store, registry.MAGIC, FS)
        self._undo = ExitStack()
        self._manifest = self._undo.enter_context(closing(open_manifest(self._store, FS)))
        self._latches: dict[str, Latch] = {}
        self._leases: dict[str, ReadLease] = {}
        self._waiters: dict[str, Waiter] = {}
        self._crashed: list[Waiter] = []

    def close(self) -> None:
        for waiter in [*self._waiters.values(), *self._crashed]:
            waiter.end()
        self._undo.close()

    def do_acquire(
        self, by: str, kind: str, scope: str = "store", ttl: str = "1000", id: str | None = None
    ) -> Iterator[str]:
        name = id or by
        latch = self._queue(name).acquire(_request(by, kind, scope, ttl))
        yield self._granted(name, latch)

    def do_queue(
        self, by: str, kind: str, wait: str, scope: str = "store", ttl: str = "1000"
    ) -> Iterator[str]:
        wanted = _request(by, kind, scope, ttl)
        waiter = Waiter(self._store, self._clock, wanted, int(wait))
        self._waiters[by] = waiter
        return self._ended(by)

    def do_crash(self, by: str) -> None:
        self._crashed.append(self._waiters.pop(by))

    def do_sleep(self, ms: str) -> Iterator[str]:
        end_ms = self._clock.now_ms + int(ms)
        while self._clock.now_ms < end_ms:
            self._clock.now_ms = min(self._clock.now_ms + STEP_MS, end_ms)
            # The last waiters check first: this order must not decide the grant.
            for name in reversed(list(self._waiters)):
                self._waiters[name].look()
                yield from self._ended(name)

    def do_reboot(self) -> None:
        self._clock.boot, self._clock.now_ms = "the next run", 0

    def do_renew(self, id: str) -> None:
        self._queue(id).renew(self._latches[id].claim)

    def do_release(self, id: str) -> None:
        self._queue(id).release(self._latches[id].claim)

    def do_commit(self, id: str) -> Iterator[str]:
        guard = self._queue(id).guard([self._latches[id].claim])
        generation = self._manifest.commit(ManifestChange(), FencingToken(0), guard)
        yield f"committed generation {generation}"

    def do_waiting(self) -> list[str]:
        return [str(each.wanted) for each in self._queue("").waiting()] or ["nobody"]

    def do_read(self, by: str, ts: str, ttl: str = "1000") -> None:
        leases = LeaseTable(self._manifest, self._clock, lambda: by)
        self._leases[by] = leases.take(TimeStamp(int(ts)), int(ttl))

    def do_done(self, by: str) -> None:
        LeaseTable(self._manifest, self._clock).release(self._leases[by])

    def do_pinned(self) -> Iterator[str]:
        oldest = LeaseTable(self._manifest, self._clock).oldest_snapshot_ts()
        yield "nothing" if oldest is None else str(oldest)

    def _queue(self, name: str) -> LatchQueue:
        return LatchQueue(self._manifest, self._clock, lambda: name)

    def _token(self, id: str) -> int:
        grant = self._latches[id].grant
        assert grant is not None
        return grant.token

    def _granted(self, name: str, latch: Latch) -> str:
        self._latches[name] = latch
        return f"{name}: granted with token {self._token(name)}"

    def _ended(self, name: str) -> Iterator[str]:
        """The outcome of a wait that has ended."""
        outcome = self._waiters[name].outcome
        if outcome is not None:
            self._waiters.pop(name).end()
        if isinstance(outcome, Latch):
            yield self._granted(name, outcome)
        elif outcome is not None:
            yield f"{name}: {type(outcome).__name__}: {outcome}"


def _request(by: str, kind: str, scope: str, ttl: str) -> LatchRequest:
    path = [] if scope == "store" else list(map(int, scope.split("/")))
    mutates = kind == "mutating"
    latch_kind = LatchKind.ADMIN if mutates else LatchKind(kind)
    return LatchRequest(latch_kind, LatchScope.of_path(path), int(ttl), by, "app", mutates)


@pytest.mark.parametrize("path", script_paths("latches"), ids=lambda path: path.stem)
def test_script(path: Path, tmp_path: Path) -> None:
    check_script(path, Latches(tmp_path))
