"""`theflash learn` as a process, fed by a fake TiKV out of a captured cluster.

PD and the stores are in this process and speak over gRPC. What is read is compared with TiDB's
answers, and in between with what the column families of the fake TiKV say.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.client.theflash import TheFlash, connect
from pyspark_theflash.service.wire.message import Moment
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.feed import Feed
from pyspark_theflash.testing.stores import StoreBuilder
from tests.integration.test_kv_truth import ANSWERS, FIRST_TABLE, HISTORY, TABLES, expected
from tests.integration.test_learner_read import CALLS, Watched
from tests.support.kv_table import TABLE
from tests.support.learn_command import Learn, learning, run, write_schema
from tests.support.raft_cluster import Ends, Sender, cluster_of
from tests.support.raft_tikv import FakeRaftCluster
from tests.support.tls import FOLDER

FOREVER = ("--flush-delay", 100_000, "--flush-size", 1000)


class Story:
    """The captured calls, replayed to a fake TiKV up to a point."""

    def __init__(self) -> None:
        self.watched = Watched(FIRST_TABLE).run()
        self.ends = self.watched.ends()
        self.tikv, self.at = FakeRaftCluster(FIRST_TABLE), 0
        transactions = Ends(self.ends, (HISTORY.end_ts >> 18) + 1000)
        self.cluster = cluster_of(self.tikv, transactions)
        self.mutex = self.cluster.cluster.mutex
        self.sender = Sender(self.tikv, self.mutex)

    def tell(self, part: float) -> None:
        """All calls up to a part of them; regions split now and then."""
        with self.mutex:
            while self.at < int(len(CALLS) * part):
                self.tikv.call(CALLS[self.at])
                if self.at % 2000 == 1500:
                    self._split()
                self.at += 1

    def _split(self) -> None:
        region = max(self.tikv.regions.values(), key=lambda r: sum(map(r.contains, self._keys())))
        keys = sorted(key for key in self._keys() if region.contains(key) and key > region.start)
        self.tikv.split([keys[len(keys) // 2]])

    def _keys(self) -> list[bytes]:
        return list(self.tikv.writes)

    def ts(self) -> int:
        """A timestamp that nothing commits at or below which is not locked by now."""
        return self.watched.snapshot_at(self.at - 1, self.ends)

    def check(self, api: TheFlash, ts: int) -> None:
        """Check that reads return the final content of the column families."""
        for name in TABLES:
            assert read(api, name, ts) == self.rows(name, ts), (name, ts)

    def rows(self, name: str, ts: int) -> dict[Any, tuple[Any, ...]]:
        """The rows in the end, by their first column."""
        rows = expected(self.watched, TABLES[name], ts).values()
        assert rows
        return {row[0]: row for row in rows}


def read(api: TheFlash, name: str, ts: int | None, **options: Any) -> dict[Any, tuple[Any, ...]]:
    """Rows by their first column, which is the handle."""
    rows = [
        tuple(row.values())
        for batch in api.read(api.plan(name, moment=Moment(ts), **options))
        for row in batch.to_pylist()
    ]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row for row in rows}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    registry.create(tmp_path / "store", registry.MAGIC, LocalFileSystem())
    write_schema(tmp_path / "schema.json", HISTORY, HISTORY.end_ts + (1 << 40))
    return tmp_path / "store"


@pytest.fixture
def story() -> Iterator[Story]:
    story = Story()
    with story.cluster:
        yield story
        story.sender.close()


def started(story: Story, store: Path, *options: object) -> Any:
    schema = f"file:{store.parent / 'schema.json'}"
    return learning(store, story.cluster.pd.address, "--schema", schema, *options)


def check_truth(learn: Learn) -> None:
    with connect(learn.serve) as api:
        for answer in ANSWERS:
            digest = api.digest(answer.table, Moment(answer.snapshot_ts))
            assert (digest.rows, digest.checksum) == (answer.rows, answer.checksum), answer


@pytest.mark.slow
def test_truth_through_kills(store: Path, story: Story) -> None:
    with started(story, store, *FOREVER) as learn:
        story.sender.connect(learn.listen)
        story.tell(0.1)
        for region in list(story.tikv.regions.values()):
            story.sender.install(region)
        story.tell(0.4)
        story.sender.send()
        with connect(learn.serve) as api:
            # Nothing but the snapshot is in files.
            story.check(api, story.ts())
            assert run("flush", learn.serve).returncode == 0
            story.tell(0.6)
            story.sender.send()
            story.check(api, story.ts())
        learn.process.kill()
    with started(story, store, *FOREVER) as learn, connect(learn.serve) as api:
        ts = story.ts()
        with ThreadPoolExecutor(1) as thread:
            reading = thread.submit(story.check, api, ts)
            story.sender.connect(learn.listen)
            story.tell(1.0)
            story.sender.send()
            reading.result(60)
        check_truth(learn)
        newest = {name: read(api, name, None) for name in TABLES}
        for name in TABLES:
            assert newest[name] == story.rows(name, HISTORY.end_ts + (1 << 39))
        assert learn.stop() == 0
    # Everything is durable by now, and nothing is sent.
    with started(story, store) as learn:
        check_truth(learn)
        with connect(learn.serve) as api:
            assert {name: read(api, name, None) for name in TABLES} == newest
        assert learn.stop() == 0


@pytest.mark.slow
def test_what_it_does_not_begin_with(store: Path, tmp_path: Path) -> None:
    """Each ends immediately, with a typed error and its status, and does not change the store."""
    listen = ("--listen", f"unix:{tmp_path}/s")
    schema = ("--schema", f"file:{store.parent / 'schema.json'}")
    binlog = StoreBuilder(tmp_path / "binlog", TABLE, feed=Feed.STREAM).publish(200).path
    with cluster_of(FakeRaftCluster(), Ends({}, 1)) as cluster:
        pd = ("--pd", cluster.pd.address)
        cases = (
            (("learn", store, "--pd", "127.0.0.1:1", *listen), 7, "PDUnavailableError"),
            (("learn", tmp_path / "none", *pd, *listen), 3, "StoreNotFoundError"),
            (("learn", binlog, *pd, *listen, *schema), 2, "OptionError: option 'store': is fed"),
            (("learn", store, *pd, "--listen", "0.0.0.0:0", *schema), 2, "give certificates"),
            (
                ("learn", store, "--pd", "127.0.0.1:1", "--listen", "127.0.0.1:0"),
                2,
                "open to all users",
            ),
            (("learn", store, *pd, *listen, *schema, "--serve", "127.0.0.1:0"), 2, "give tokens"),
            (("learn", store, *pd, *listen, "--cluster-cert", "x"), 2, "need --cluster-ca"),
            (
                ("learn", store, *pd, *listen, *schema, "--cluster-ca", FOLDER / "ca.pem"),
                7,
                "PDUnavailableError",
            ),
        )
        for arguments, status, reason in cases:
            process = run(*arguments)
            # gRPC may have said something of its own before.
            last_line = process.stderr.splitlines()[-1]
            assert (process.returncode, reason in last_line) == (status, True), process.stderr
        with learning(store, cluster.pd.address, *schema) as learn:
            busy = run("learn", store, *pd, *listen, *schema)
            assert (busy.returncode, "StoreInUseError" in busy.stderr) == (5, True), busy.stderr
            assert learn.stop() == 0
    alone = run("tables", store)
    assert (alone.returncode, "RaftFedError" in alone.stderr) == (5, True), alone.stderr
    writer = run("writer", store, "--source", f"file:{tmp_path}", *schema, "--once")
    assert (writer.returncode, "only theflash learn" in writer.stderr) == (2, True), writer.stderr
