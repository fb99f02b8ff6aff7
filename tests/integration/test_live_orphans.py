"""Commits and rollbacks of a real TiDB that never reach the store, which looks them up in TiKV."""

import json
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from tests.support.lost_frames import binlog_file, without
from tests.support.mysql import MySqlError
from tests.support.peer import Peer
from tests.support.recording_pump import RecordingPump

pytestmark = [pytest.mark.peer, pytest.mark.slow]


def work(peer: Peer) -> None:
    """Commits, and transactions that TiDB rolls back because another was first."""
    rng = Random(1)
    with peer.connect() as one, peer.connect() as two:
        for number in range(60):
            one.query(f"REPLACE INTO test.t VALUES ({rng.randrange(20)}, {number})")
            one.query("BEGIN OPTIMISTIC")
            one.query(f"UPDATE test.t SET b = b + 1 WHERE a < {rng.randrange(20)}")
            if number % 5 == 0:
                two.query("UPDATE test.t SET b = b + 100")
            with suppress(MySqlError):
                one.query("COMMIT")


def status(store: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", str(store), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.parametrize("schema", ["tikv", "tidb"])
def test_a_real_tikv_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str], schema: str) -> None:
    socket, store = tmp_path / "pump.sock", tmp_path / "store"
    assert main(["init", str(store)]) == 0
    with RecordingPump(socket) as pump, Peer(tmp_path / "peer", binlog_socket=socket) as peer:
        peer.sql("CREATE TABLE test.t (a BIGINT PRIMARY KEY, b BIGINT)")
        start_ts = peer.tso()
        work(peer)
        truth, end_ts = peer.sql("SELECT * FROM test.t"), peer.tso()
        kept, lost = without(list(pump.payloads), Random(2), 40, after=start_ts)
        assert {bool(each.commit_ts) for each in lost} == {True, False}
        (tmp_path / "binlog").write_bytes(binlog_file(kept))
        place = {"tikv": peer.pd_address, "tidb": peer.status_url}[schema]
        command = ["writer", str(store), "--source", f"file:{tmp_path / 'binlog'}", "--once"]
        command += ["--schema", f"{schema}:{place}", "--start-ts", str(start_ts)]
        command += ["--include", "test.*", "--assume-empty", "test.*"]
        assert main(command) == 0
        waiting = status(store, capsys)
        assert waiting["resolved_ts"] < end_ts
        assert waiting["orphans"] == []
        assert main([*command, "--ask-after", "0", "--until-ts", str(end_ts)]) == 0
    assert status(store, capsys)["orphans"] == []
    with open_snapshot(store, end_ts) as snapshot:
        rows = [
            tuple(map(str, row.values()))
            for batch in snapshot.scan("test.t", ["a", "b"])
            for row in batch.to_pylist()
        ]
    assert sorted(rows) == sorted(truth)
