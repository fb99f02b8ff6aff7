"""Holders of latches in separate processes: killed, stopped past their lease, and ended."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.store.folder import StoreIdentity, create_store, open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable
from tests.support.processes import wait_until

PROJECT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import LeaseExpiredError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.storage.store.folder import open_manifest
from pyspark_theflash.storage.store.latch.latch import LatchKind
from pyspark_theflash.storage.store.latch.lease import LeaseTable
leases = LeaseTable(open_manifest(Path(sys.argv[1]), LocalFileSystem()), SystemClock())
lease = leases.take(5, int(sys.argv[3]), LatchKind(sys.argv[2]))
print("held", flush=True)
for line in sys.stdin:
    try:
        leases.renew(lease)
        print("renewed", flush=True)
    except LeaseExpiredError:
        print("expired", flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    create_store(tmp_path / "store", StoreIdentity("id", "magic"), LocalFileSystem())
    return tmp_path / "store"


@contextmanager
def holder(store: Path, kind: LatchKind, ttl_ms: int) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, store, kind.value, str(ttl_ms)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def pinned(store: Path) -> bool:
    with closing(open_manifest(store, LocalFileSystem())) as manifest:
        return LeaseTable(manifest, SystemClock()).oldest_generation() is not None


@pytest.mark.parametrize("kind", [LatchKind.READ, LatchKind.ADMIN])
def test_a_killed_holder(store: Path, kind: LatchKind) -> None:
    with holder(store, kind, 600_000) as process:
        assert pinned(store)
        process.kill()
        process.wait()
        assert pinned(store) is (kind is LatchKind.READ)


def test_a_killed_readers_latch_runs_out(store: Path) -> None:
    with holder(store, LatchKind.READ, 700) as process:
        process.kill()
        process.wait()
        wait_until(lambda: not pinned(store))


def test_a_holder_that_was_stopped_past_its_lease(store: Path) -> None:
    with holder(store, LatchKind.READ, 500) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.send_signal(signal.SIGSTOP)
        SystemClock().sleep_ms(700)
        assert not pinned(store)
        process.send_signal(signal.SIGCONT)
        process.stdin.write("renew\n")
        process.stdin.flush()
        assert process.stdout.readline() == "expired\n"


def test_a_stopped_holder_that_comes_back_in_time(store: Path) -> None:
    with holder(store, LatchKind.READ, 60_000) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.send_signal(signal.SIGSTOP)
        assert pinned(store)
        process.send_signal(signal.SIGCONT)
        process.stdin.write("renew\n")
        process.stdin.flush()
        assert process.stdout.readline() == "renewed\n"
