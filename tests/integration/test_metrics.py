"""Commands as processes: what they report to Prometheus, and log."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.cli.jobs.metrics import METRICS
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support import kv_table
from tests.support.learn_command import command, write_schema
from tests.support.peer import Peer
from tests.support.processes import wait_until
from tests.support.raft_cluster import Ends, Sender, cluster_of
from tests.support.raft_tikv import FakeRaftCluster
from tests.support.workloads import workload

WAIT_MS = 120_000
BANK = workload("bank")
TABLE = table_info(7, "shop.small", [id_column()])
Samples = dict[tuple[str, str], float]


class Observed:
    """A running command, its metrics and its log, which is JSON."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self._log = folder / "log"
        options = ("--metrics", "127.0.0.1:0", "--log", "json", "--heartbeat", 0.01)
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command(*arguments, *options), stdout=subprocess.PIPE, stderr=log, text=True
            )

    def lines(self) -> list[dict[str, Any]]:
        """The complete lines of the log."""
        text = self._log.read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def samples(self) -> Samples:
        """One scrape: values by the name without prefix, and the label's value; of `METRICS`."""
        address = self.lines()[0]["fields"]["metrics"]
        with urlopen(f"http://{address}/metrics", timeout=60) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        scraped = [each for family in families for each in family.samples]
        assert {"process_resident_memory_bytes"} <= {each.name for each in scraped}
        ours = [each for each in scraped if each.name.startswith("theflash_")]
        samples = {
            (each.name.removeprefix("theflash_"), next(iter(each.labels.values()), "")): each.value
            for each in ours
        }
        assert {name for name, _ in samples} <= set(METRICS)
        return samples

    def wait_for(self, holds: Callable[[Samples], bool]) -> Samples:
        """Wait for metrics that fulfil a condition."""
        latest: list[Samples] = []

        def check() -> bool:
            assert self.process.poll() is None, self._log.read_text()
            if self.lines():
                latest.append(self.samples())
            return bool(latest) and holds(latest[-1])

        wait_until(check, WAIT_MS)
        return latest[-1]

    def ended(self) -> None:
        """End the command after a heartbeat; check that its log is complete."""
        wait_until(lambda: any(line["message"] == "heartbeat" for line in self.lines()), WAIT_MS)
        self.process.terminate()
        self.process.communicate(timeout=WAIT_MS / 1000)
        assert self.process.returncode == 0
        lines = [line for line in self.lines() if line["logger"].endswith("telemetry")]
        assert lines[0]["message"].endswith(" started")
        assert lines[0]["fields"]["pid"] == self.process.pid
        assert {line["message"] for line in lines[1:]} == {"heartbeat"}


@contextmanager
def observed(folder: Path, *arguments: object) -> Iterator[Observed]:
    made = Observed(folder, *arguments)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def test_a_writer(tmp_path: Path) -> None:
    store = tmp_path / "store"
    registry.create(store, registry.MAGIC, LocalFileSystem())
    source = ("--source", f"file:{BANK.binlog}", "--schema", f"file:{BANK.schema}")
    with observed(tmp_path, "writer", store, *source, "--base", BANK.base) as writer:
        samples = writer.wait_for(lambda s: s.get(("rows_total", ""), 0) > 0)
        assert samples["resolved_ts_lag_seconds", ""] > 0
        assert samples["pending_transactions", ""] >= 0
        assert samples["stage_seconds_total", "publish"] > 0
        assert samples["latches", "pin"] == samples["set_aside_tables", ""] == 0
        wait_until(lambda: any("rows" in line["fields"] for line in writer.lines()), WAIT_MS)
        beat = next(line for line in writer.lines() if "rows" in line["fields"])
        assert beat["fields"].keys() >= {"rows_per_second", "resolved_ts_lag_seconds"}
        writer.ended()


def test_a_server(tmp_path: Path) -> None:
    store = tmp_path / "store"
    StoreBuilder(store, TABLE).publish(200 << 18, {TABLE: [(1, 110, [1])]})
    with observed(tmp_path, "serve", store, "--workers", 2) as server:
        server.wait_for(lambda s: s.get(("workers", ""), 0) == 1)
        with connect(f"unix:{store}/serve.sock") as client:
            plan = client.plan(TABLE.full_name)
            samples = server.wait_for(lambda s: s["latches", "read"] == 1)
            assert samples["connections", "admitted"] == 1
            assert samples["resolved_timestamp_seconds", ""] == 0.2
            assert samples["workers_resident_bytes", ""] > 1 << 20
            client.release(plan.snapshot)
            server.wait_for(lambda s: s["latches", "read"] == 0)
        server.wait_for(lambda s: s["connections", "admitted"] == 0)
        server.ended()


def test_a_learner(tmp_path: Path) -> None:
    store, raft = tmp_path / "store", FakeRaftCluster()
    registry.create(store, registry.MAGIC, LocalFileSystem())
    kv_table.commit(raft, 1, 10, "a row")
    schema = write_schema(tmp_path / "schema.json", kv_table.HISTORY, 1 << 62)
    with cluster_of(raft, Ends({}, 1)) as cluster:
        address = f"unix:{store}/learn"
        arguments = ("learn", store, "--pd", cluster.pd.address, "--listen", address)
        with observed(tmp_path, *arguments, "--schema", f"file:{schema}") as learner:
            learner.wait_for(lambda s: ("regions", "followed") in s)
            sender = Sender(raft, cluster.cluster.mutex)
            try:
                sender.connect(address)
                sender.install(raft.regions[1])
                samples = learner.wait_for(lambda s: s["regions", "followed"] == 1)
                assert samples["regions", "stopped"] == 0
                assert samples["connections", "admitted"] == samples["scans", ""] == 0
            finally:
                sender.close()
            learner.ended()


@pytest.mark.peer
def test_a_follower(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Peer(tmp_path / "peer", cdc="v8.5") as peer:
        peer.sql(
            "CREATE DATABASE shop",
            "CREATE TABLE shop.t (id INT PRIMARY KEY)",
            "INSERT INTO shop.t VALUES (1), (2)",
        )
        arguments = ("follow", store, "--pd", peer.pd_address, "--tables", "shop.*")
        with observed(tmp_path, *arguments) as follower:
            samples = follower.wait_for(lambda s: s.get(("regions", "streaming"), 0) > 0)
            assert samples["resolved_ts_lag_seconds", ""] >= 0
            assert {("buffered_bytes", "committed"), ("spilled_bytes", "")} <= samples.keys()
            peer.sql("INSERT INTO shop.t VALUES (3)")
            follower.wait_for(lambda s: s["rows_total", ""] > 0)
            assert any("load_ratio" in line["fields"] for line in follower.lines())
            follower.ended()
