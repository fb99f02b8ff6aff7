"""Spark with the jar, of which a part is killed, stopped or fails during a query.

Rows are the oracle's or the query fails typed, never short; and what is dead leaves nothing.
"""

import hashlib
import itertools
import os
import random
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from py4j.protocol import Py4JJavaError

from pyspark_theflash.base.errors import LatchLostError
from pyspark_theflash.base.failpoint import armed
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.client.embedded import socket_path
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.processes import (
    CLOCK,
    descendants,
    engines,
    is_alive,
    is_stopped,
    open_files,
    wait_until,
)
from tests.support.serving import served, write_tokens
from tests.support.sources import server_options
from tests.support.spark_cluster import cluster, driver
from tests.support.spark_driver import gated
from tests.support.tls import FOLDER
from tests.support.victims import Victim, files_in_manifest, files_on_disk
from tests.support.writes import latch, schema_change, write

SMALL = table_info(8, "d.small", [id_column()])
WIDE = table_info(
    7, "d.wide", [id_column(), column("data", MySQLType.BLOB, charset="binary", flen=1 << 20)]
)
ROWS = 2_000
REGIONS = 8


def data(n):
    """16 KB, of which no two are the same."""
    return random.Random(n).randbytes(1 << 14)


ORACLE = [[n, hashlib.md5(data(n)).hexdigest()] for n in range(ROWS)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """More rows than the buffers of sockets, in eight regions."""
    path = tmp_path_factory.mktemp("faults") / "store"
    StoreBuilder(path, WIDE).publish(200, {WIDE: [(n, 110, [n, data(n)]) for n in range(ROWS)]})
    with connect(path) as api:
        for at in range(ROWS // REGIONS, ROWS, ROWS // REGIONS):
            last = api.regions("d.wide").regions[-1]
            api.split_region(WIDE.id, last.region_id, str(at))
    return path


@pytest.fixture
def gate(tmp_path):
    (tmp_path / "gate").mkdir()
    return tmp_path / "gate"


def wait_for_midst(gate, tasks=2):
    """Until so many tasks have their first rows."""
    wait_until(lambda: len(list(gate.glob("began-*"))) >= tasks, 60_000)


def tries(gate):
    """(partition, try) of the tasks that had rows."""
    return {tuple(map(int, name.name.split("-")[1:])) for name in gate.glob("began-*")}


def kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, pids)))


def latches(store):
    with connect(store) as api:
        return api.latches().latches


def test_an_engine_process_that_is_killed(spark, store, gate):
    """With one attempt per task, the query fails with a typed error, and succeeds when repeated."""
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "20")
    frame = spark.read.format("theflash").option("store", store).load("d.wide")
    read = frame.mapInArrow(gated(str(gate), "wait"), "id bigint, digest string")
    try:
        with ThreadPoolExecutor(1) as thread:
            pending = thread.submit(read.collect)
            wait_for_midst(gate)
            kill(*engines(store))
            (gate / "open").touch()
            with pytest.raises(
                Py4JJavaError, match=r"StreamCutError: .*in the middle of an answer"
            ):
                pending.result(60)
        assert sorted(map(list, read.collect())) == ORACLE
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert len(engines(store)) == 1


# -- several processes: a task that failed is tried again


@pytest.fixture(scope="module")
def spark_cluster(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="module")
def application(spark_cluster, tmp_path_factory):
    conf = {
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.multiplier": "1.1",
        "spark.speculation.quantile": "0.5",
        "spark.excludeOnFailure.enabled": "false",
    }
    with driver(spark_cluster.url, tmp_path_factory.mktemp("driver"), **conf) as made:
        yield made


@pytest.fixture
def ask(application, store, gate):
    """Begin to read the table; returns with the tasks in their midst."""

    def ask(tasks, **options):
        options = {"store": str(store), **options}
        pending = application.ask(table="d.wide", options=options, gate=str(gate), tasks=tasks)
        wait_for_midst(gate)
        return pending

    return ask


@pytest.mark.slow
def test_tasks_go_on_with_another_engine_process(ask, gate, store):
    pending = ask("wait")
    first = engines(store)
    kill(*first)
    (gate / "open").touch()
    assert sorted(pending.rows()) == ORACLE
    assert any(attempt for _, attempt in tries(gate))
    assert engines(store)
    assert not set(engines(store)) & set(first)


@pytest.mark.slow
def test_an_executor_that_is_killed(ask, gate, spark_cluster):
    pending = ask("wait")
    lost, kept = spark_cluster.executors()
    kill(lost)
    (gate / "open").touch()
    assert sorted(pending.rows()) == ORACLE
    assert any(attempt for _, attempt in tries(gate))
    wait_until(lambda: len(spark_cluster.executors()) == 2, 60_000)
    assert kept in spark_cluster.executors()


@pytest.mark.slow
def test_tasks_that_fail(ask, gate):
    pending = ask("fail")
    assert sorted(pending.rows()) == ORACLE
    assert tries(gate) >= {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.slow
def test_a_straggler_and_its_double(ask, gate):
    """The first try of a task never ends; its rows are those of the second, which Spark adds."""
    pending = ask("straggle")
    assert sorted(pending.rows()) == ORACLE
    assert (0, 1) in tries(gate)


# -- a separate server


@pytest.fixture
def secured(store, tmp_path):
    """Start a server with TLS and tokens as a process, each time at the same address."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    server_side = {"cert": "server.pem", "key": "server.key", "ca": "ca.pem"}
    options = [part for name, file in server_side.items() for part in (f"--{name}", FOLDER / file)]
    tokens = write_tokens(tmp_path / "tokens")
    return partial(served, store, "--listen", f"localhost:{port}", "--tokens", tokens, *options)


@pytest.mark.slow
def test_a_server_that_is_killed(ask, gate, secured):
    """Without it a query fails typed; with the next it has all rows, begun before or not."""
    with secured() as (process, address):
        pending = ask("wait", **server_options(address))
        kill(process.pid)
        (gate / "open").touch()
        assert re.search(r"(StreamCut|ServiceUnavailable)Error: ", pending.error())
    with secured() as (process, address):
        for left in gate.iterdir():
            left.unlink()
        pending = ask("wait", **server_options(address))
        kill(process.pid)
        with secured():
            (gate / "open").touch()
            assert sorted(pending.rows()) == ORACLE
            assert any(attempt for _, attempt in tries(gate))


@pytest.mark.slow
def test_a_server_that_was_stopped_past_its_leases(ask, gate, store, secured):
    """The files of its readers have been removed, and the same rows are in other files."""
    with secured() as (process, address):
        pending = ask("wait", snapshot_ts="200", **server_options(address))
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid))
        builder = StoreBuilder(store, WIDE)
        builder.end_leases()
        before = files_on_disk(store)
        builder.publish(300, {WIDE: [(n, 250, [n, b"changed"]) for n in range(ROWS)]})
        with connect(store) as api:
            api.compact()
        assert not before & files_on_disk(store)
        process.send_signal(signal.SIGCONT)
        (gate / "open").touch()
        assert sorted(pending.rows()) == ORACLE


@pytest.mark.slow
def test_a_server_holds_nothing_of_readers_that_are_done(application, store, secured):
    """Latches go with frames, when Java collects them, and files with streams."""
    with secured() as (process, address):
        files = []
        for _ in range(6):
            options = {**server_options(address), "snapshot_ts": "200", "pushdown": "false"}
            pending = application.ask(
                table="d.wide", options=options, sql="SELECT count(*), sum(length(data)) FROM t"
            )
            assert pending.rows() == [[str(ROWS), str(ROWS << 14)]]
            files.append(open_files(process.pid))
        assert max(files[3:]) <= max(files[:3]) + 2
        # Java releases them when it collects garbage, the last ones not yet.
        wait_until(lambda: len(latches(store)) <= 3)


# -- other killed processes


def publish_for_ever(path):
    """A victim's target: a writer that changes every row again and again."""
    builder = StoreBuilder(path, WIDE)
    for ts in itertools.count(1_000, 10):
        rows = [(n, ts - 5, [n, b"changed"]) for n in range(ts % 7, ROWS, 7)]
        builder.publish(ts, {WIDE: rows})


@pytest.mark.slow
def test_writers_that_are_killed(ask, gate, store, application):
    """Spark reads all rows at the timestamp of its start."""
    resolved = []
    for _ in range(3):
        for left in gate.iterdir():
            left.unlink()
        writer = Victim(publish_for_ever, store)
        pending = ask("wait", snapshot_ts="200")
        writer.kill_after(500)
        with connect(store) as api:
            api.compact()
            resolved.append(api.status().resolved_ts)
        (gate / "open").touch()
        assert sorted(pending.rows()) == ORACLE
    assert resolved[-1] > 200
    assert files_on_disk(store) == files_in_manifest(store)


def write_and_stop(path, held, noted):
    """A victim's target: a holder that is stopped during its write."""
    with connect(path) as api, armed("magic.before_commit", lambda: os.kill(os.getpid(), 19)):
        try:
            write(api, held, {SMALL: [(1, 250, 240, [1])]}, resolved_ts=300)
        except LatchLostError:
            noted.touch()


@pytest.mark.parametrize("fate", [signal.SIGCONT, signal.SIGKILL])
@pytest.mark.slow
def test_a_latch_holder_that_was_stopped_past_its_lease(spark, tmp_path, fate):
    """Its write is rejected, or never ends: Spark reads the rows of the next writer."""
    path = tmp_path / "store"
    registry.create(path, registry.MAGIC, LocalFileSystem())
    with connect(path) as api:
        first = latch(api, ttl_ms=1_500)
        begin = {"start_ts": 100, "schema": (schema_change(SMALL, 100),)}
        write(api, first, {SMALL: [(0, 150, 140, [0])]}, resolved_ts=200, **begin)
        holder = Victim(write_and_stop, path, first, tmp_path / "refused")
        wait_until(lambda: is_stopped(holder.pid))
        frame = spark.read.format("theflash").option("store", path).load("d.small")
        assert [tuple(row) for row in frame.collect()] == [(0,)]
        second = latch(api, name="another", wait_ms=30_000)
        os.kill(holder.pid, fate)
        assert holder.exit_code() == (0 if fate == signal.SIGCONT else -fate)
        assert (tmp_path / "refused").exists() == (fate == signal.SIGCONT)
        write(api, second, {SMALL: [(2, 250, 241, [2])]}, resolved_ts=300)
        frame = spark.read.format("theflash").option("store", path).load("d.small")
        assert sorted(map(tuple, frame.collect())) == [(0,), (2,)]
        api.release_latch(second)
        api.compact()
    assert files_on_disk(path) == files_in_manifest(path)


@pytest.mark.slow
def test_a_driver_that_is_killed(store, gate, tmp_path):
    """Executors and engine process end and close their files; its leases expire."""
    others = {latch.id for latch in latches(store)}
    with driver("local-cluster[2,1,1024]", tmp_path) as dying:
        dying.ask(table="d.wide", options={"store": str(store)}, gate=str(gate), tasks="wait")
        wait_for_midst(gate)
        started = descendants(dying.processes[-1])
        assert len(started) >= 4  # executors, and Python for each
        kill(*dying.processes)
        left = [latch for latch in latches(store) if latch.id not in others]
        assert left
        assert all(latch.expires_in_ms <= 600_000 for latch in left)
        wait_until(lambda: not any(map(is_alive, started)), 60_000)
    wait_until(lambda: not engines(store), 90_000)
    assert not socket_path(store).exists()
    CLOCK.sleep_ms(20)
    again = {latch.id: latch.expires_in_ms for latch in latches(store)}
    assert all(again[latch.id] < latch.expires_in_ms for latch in left)  # not renewed
    StoreBuilder(store, WIDE).end_leases()
    assert not latches(store)
