"""Physical imports into tables of a live cluster that `theflash follow` replicates."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import TableSetAsideError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.store.compared import IMPORTS_KIND, imports_revision
from pyspark_theflash.storage.store.folder import open_manifest
from tests.support.cdc_peer import CdcControl
from tests.support.etcd import Etcd
from tests.support.peer import Peer
from tests.support.progress import read_progress

pytestmark = [pytest.mark.peer]

CLOCK = SystemClock()
WAIT_MS = 240_000
KEY = "/tidb/brie/import/lightning/lightning-1"
IMPORTED = ("followed", "missed", "forgotten")
Process = subprocess.Popen[bytes]


@pytest.fixture(params=["v6.5", "v8.5"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path / "peer", cdc=request.param) as peer:
        peer.sql(
            "CREATE DATABASE shop",
            "CREATE TABLE shop.filled (id INT PRIMARY KEY, v INT)",
            *(f"CREATE TABLE shop.{name} (id INT PRIMARY KEY, v INT)" for name in IMPORTED),
            "INSERT INTO shop.filled VALUES (1, 1), (2, 2)",
        )
        yield peer


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start(peer: Peer, store: Path, processes: list[Process], *more: str) -> Process:
    module = (sys.executable, "-m", "pyspark_theflash.cli.main")
    options = ("--pd", peer.pd_address, "--tables", "shop.*", *more)
    processes.append(subprocess.Popen([*module, "follow", str(store), *options]))
    return processes[-1]


def start_following(peer: Peer, store: Path, processes: list[Process]) -> Process:
    """Start with a new store, and wait until changes after its load are readable."""
    process = start(peer, store, processes)
    while not (store / "format").exists():
        assert process.poll() is None
        CLOCK.sleep_ms(20)
    reach(process, store, 1)
    reach(process, store, peer.tso())
    return process


def import_rows(peer: Peer, table: str) -> None:
    """Write rows into a table like a physical import."""
    db, name = table.split(".")
    ((table_id,),) = peer.sql(
        "SELECT tidb_table_id FROM information_schema.tables "
        f"WHERE table_schema = '{db}' AND table_name = '{name}'"
    )
    with CdcControl(peer.cdc_control_url).importing(int(table_id or 0)):
        rows = ",".join(f"({n}, {n})" for n in range(100, 600))
        peer.sql(f"INSERT INTO {table} VALUES {rows}")


def rows(store: Path, table: str, ts: int | None = None) -> list[tuple[int, ...]]:
    with open_snapshot(store, None if ts is None else TimeStamp(ts)) as snapshot:
        batches = list(snapshot.scan(table))
    return sorted(tuple(row.values()) for batch in batches for row in batch.to_pylist())


def reach(process: Process, store: Path, ts: int) -> None:
    """Wait until a store is readable at a timestamp."""
    deadline_ms = CLOCK.boottime_ms() + WAIT_MS
    while (progress := read_progress(store)) is None or progress.resolved_ts < ts:
        assert process.poll() is None
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(50)


def wait_for_aside(process: Process, store: Path, table: str) -> TableSetAsideError:
    """Wait until a table is set aside; before, it has no rows."""
    deadline_ms = CLOCK.boottime_ms() + WAIT_MS
    while True:
        try:
            assert rows(store, table) == []
        except TableSetAsideError as error:
            return error
        assert process.poll() is None
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(50)


def wait_for_rows(process: Process, store: Path, table: str, count: int) -> None:
    """Wait until a table that is set aside can be read, with all of its rows."""
    deadline_ms = CLOCK.boottime_ms() + WAIT_MS
    while True:
        with suppress(TableSetAsideError):
            assert len(rows(store, table)) == count
            return
        assert process.poll() is None
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(50)


def wait_for_comparison(process: Process, store: Path, registered: int) -> None:
    """Wait until all tables have been compared after a key disappeared."""
    deadline_ms = CLOCK.boottime_ms() + WAIT_MS
    while compared_revision(store) <= registered:
        assert process.poll() is None
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(50)


def compared_revision(store: Path) -> int:
    with closing(open_manifest(store, LocalFileSystem())) as manifest:
        return imports_revision(manifest.read([IMPORTS_KIND])) or 0


def test_imports_are_found(peer: Peer, tmp_path: Path, processes: list[Process]) -> None:
    """One while the store follows, one while it does not, and one that etcd has forgotten."""
    store, etcd = tmp_path / "store", Etcd(peer.pd_address)
    process = start_following(peer, store, processes)
    lease, registered = etcd.register(KEY)
    import_rows(peer, "shop.followed")
    etcd.revoke(lease)
    error = wait_for_aside(process, store, "shop.followed")
    assert "500 in TiKV" in error.reason
    for table in ("shop.missed", "shop.forgotten"):
        wait_for_comparison(process, store, registered)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        lease, registered = etcd.register(KEY)
        import_rows(peer, table)
        etcd.revoke(lease)
        if table == "shop.forgotten":
            etcd.compact()
        process = start(peer, store, processes)
        if peer.cdc == "v8.5":
            wait_for_aside(process, store, table)
        else:
            # The scan of v6.5 has sent all of its rows.
            wait_for_comparison(process, store, registered)
            assert len(rows(store, table)) == 500
    peer.sql("INSERT INTO shop.filled VALUES (3, 3)")
    reach(process, store, ts := peer.tso())
    assert rows(store, "shop.filled", ts) == [(1, 1), (2, 2), (3, 3)]
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    process = start(peer, store, processes, "--add", "shop.followed")
    wait_for_rows(process, store, "shop.followed", 500)
    peer.sql("DELETE FROM shop.followed WHERE id > 101")
    reach(process, store, ts := peer.tso())
    assert rows(store, "shop.followed", ts) == [(100, 100), (101, 101)]
