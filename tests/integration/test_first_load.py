"""First loads of a live cluster: killed at any time, and compared with TiDB at their timestamp."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.store.folder import FORMAT_FILE, open_manifest
from pyspark_theflash.storage.store.load import LOAD_KIND, stripes_of
from tests.support.peer import Peer
from tests.support.processes import children, is_stopped, wait_until
from tests.support.progress import read_progress

pytestmark = [pytest.mark.peer]

CLOCK = SystemClock()
TYPES = (
    "id BIGINT UNSIGNED PRIMARY KEY, d DECIMAL(20,4), s VARCHAR(40), t TIMESTAMP(3) NULL, "
    "e ENUM('x','y'), j JSON, f DOUBLE, b MEDIUMINT"
)

STOPS_READERS = """
import os, signal, sys
if "pyspark_theflash.replication.load.process" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGSTOP)
"""
"""A module that each Python process imports when it starts."""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with Peer(tmp_path_factory.mktemp("peer")) as peer:
        fill(peer)
        yield peer


def fill(peer: Peer) -> None:
    """Tables of all kinds of handles, with rows from before schema changes, in many regions."""
    peer.sql(
        "SET time_zone = '+00:00'",
        "CREATE DATABASE shop",
        "CREATE DATABASE other",
        "CREATE TABLE other.n (a INT)",
        "INSERT INTO other.n VALUES (1)",
        f"CREATE TABLE shop.types ({TYPES})",
        "CREATE TABLE shop.rowid (a INT, b VARCHAR(200))",
        "CREATE TABLE shop.common (a VARCHAR(20), b INT, c TEXT, PRIMARY KEY (a, b) CLUSTERED)",
        "CREATE TABLE shop.parts (id INT PRIMARY KEY, v INT) PARTITION BY HASH (id) PARTITIONS 5",
        "CREATE TABLE shop.empty (id INT PRIMARY KEY)",
        "CREATE VIEW shop.seen AS SELECT * FROM shop.parts",
        "CREATE TABLE shop.gone (id INT PRIMARY KEY)",
    )
    with peer.connect() as session:
        session.query("SET time_zone = '+00:00'")
        for low in range(0, 6000, 2000):
            numbers = range(low, low + 2000)
            inserts = {
                "types": (
                    f"({n if n % 3 else 2**64 - 1 - n}, {n}.5, 'né {n}', "
                    f"'2024-02-03 04:05:06.{n % 1000:03}', 'y', '{{\"a\": {n}}}', {n}e3, -{n})"
                    for n in numbers
                ),
                "rowid": (f"({n}, REPEAT('{n} ', {n % 30}))" for n in numbers),
                "common": (f"('k{n % 97}', {n}, REPEAT('c', {n % 500}))" for n in numbers),
                "parts": (f"({n}, {n * 7})" for n in numbers),
            }
            for table, rows in inserts.items():
                session.query(f"INSERT INTO shop.{table} VALUES {','.join(rows)}")
    peer.sql(
        "ALTER TABLE shop.types ADD COLUMN later INT NOT NULL DEFAULT 7",
        "ALTER TABLE shop.types DROP COLUMN f",
        "INSERT INTO shop.types (id, later) VALUES (10000000, 8)",
        "UPDATE shop.types SET s = NULL, later = 9 WHERE id < 100",
        "DELETE FROM shop.parts WHERE id % 11 = 0",
        "SPLIT TABLE shop.rowid BY (1000), (3000)",
        "SPLIT TABLE shop.types BETWEEN (0) AND (6000) REGIONS 4",
        "SPLIT TABLE shop.common BY ('k3', 5), ('k5', 0)",
        "DROP TABLE shop.gone",
    )


def command(peer: Peer, store: Path, *arguments: str) -> list[str]:
    """The command that loads a store and ends."""
    return [
        *(sys.executable, "-m", "pyspark_theflash.cli.main", "follow", str(store)),
        *("--pd", peer.pd_address, "--tables", "shop.*", "--until-ts", "1", *arguments),
    ]


def compare(peer: Peer, store: Path) -> int:
    """Compare all tables with TiDB at the timestamp of the load; return the number of rows."""
    progress = read_progress(store)
    assert progress is not None
    assert progress.oldest_ts == progress.resolved_ts
    count = 0
    with open_snapshot(store) as snapshot, peer.connect() as session:
        session.query("SET time_zone = '+00:00'")
        session.query(f"SET tidb_snapshot = {progress.resolved_ts}")
        names = {f"shop.{row[0]}" for row in session.query("SHOW TABLES FROM shop")} - {"shop.seen"}
        here = {table.full_name for table in snapshot.tables() if table.db == "shop"}
        assert here == names
        for name in sorted(names):
            columns = list(zip(*snapshot.texts(snapshot.plan(name)), strict=True))
            ours = [[v for part in column for v in part.to_pylist()] for column in columns]
            theirs = session.query(f"SELECT * FROM {name}")
            assert Counter(zip(*ours, strict=True)) == Counter(theirs), name
            count += len(theirs)
    return count


def test_a_load_is_what_tidb_reads_then(peer: Peer, tmp_path: Path) -> None:
    store = tmp_path / "store"
    subprocess.run(command(peer, store), check=True, timeout=300)
    assert compare(peer, store) > 20_000
    # A complete load is not repeated.
    again = subprocess.run(command(peer, store), capture_output=True, text=True, timeout=300)
    assert (again.returncode, again.stdout) == (0, "")


def test_a_load_beside_transactions_that_is_killed(peer: Peer, tmp_path: Path) -> None:
    store, ended, published, kills = tmp_path / "store", threading.Event(), -1, 0

    def change() -> None:
        with peer.connect() as session:
            number = 0
            while not ended.is_set():
                number += 1
                session.query("BEGIN")
                session.query(f"UPDATE shop.parts SET v = v + 1 WHERE id % 40 = {number % 40}")
                session.query(f"INSERT INTO shop.rowid VALUES ({number}, 'new')")
                session.query(f"DELETE FROM shop.common WHERE b = {number % 6000}")
                session.query("COMMIT")
                if number % 20 == 0:
                    session.query(f"SPLIT TABLE shop.parts BY ({number})")

    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(6):
            process = subprocess.Popen(command(peer, store))
            published = max(published, killed_after(process, store, published))
            kills += process.returncode == -signal.SIGKILL
        subprocess.run(command(peer, store), check=True, timeout=300)
    finally:
        ended.set()
        writer.join()
    assert published > 0
    assert kills > 0
    assert compare(peer, store) > 20_000


def killed_after(process: "subprocess.Popen[bytes]", store: Path, published: int) -> int:
    """Kill a load that has published more rows than that, unless it ends; return its rows."""
    deadline_ms = CLOCK.boottime_ms() + 120_000
    while rows_published(store) <= published and process.poll() is None:
        assert CLOCK.boottime_ms() < deadline_ms
        CLOCK.sleep_ms(5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return rows_published(store)


def rows_published(store: Path) -> int:
    """The rows that a load has published; -1 if it has not begun."""
    if not (store / FORMAT_FILE).exists():
        return -1
    with closing(open_manifest(store, LocalFileSystem())) as manifest:
        stripes = stripes_of(manifest.read([LOAD_KIND]))
        return sum(stripe.rows for stripe in stripes) if stripes else -1


def test_a_reading_process_that_is_killed(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(STOPS_READERS)
    process = subprocess.Popen(
        command(peer, tmp_path / "store"),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    wait_until(lambda: any(map(is_stopped, children(process.pid))), 60_000)
    stopped = next(filter(is_stopped, children(process.pid)))
    os.kill(stopped, signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 7
    assert b"a process of the load ended with status -9; run the same command again" in error
    subprocess.run(command(peer, tmp_path / "store"), check=True, timeout=300)
    assert compare(peer, tmp_path / "store") > 20_000
