"""The real TiDB of the tests starts, answers, writes its binlog, and leaves nothing behind."""

import os
from pathlib import Path

import pytest

from pyspark_theflash.replication.source.event import EntityKind
from pyspark_theflash.replication.source.wire import decode_entities
from tests.support.mysql import MySqlError
from tests.support.peer import Peer
from tests.support.recording_pump import RecordingPump

pytestmark = [pytest.mark.peer, pytest.mark.slow]


def test_peer(tmp_path: Path) -> None:
    socket = tmp_path / "pump.sock"
    with RecordingPump(socket) as pump, Peer(tmp_path / "peer", binlog_socket=socket) as peer:
        peer.sql("CREATE TABLE test.t (a BIGINT PRIMARY KEY, b VARCHAR(9))")
        before = peer.tso()
        peer.sql("INSERT INTO test.t VALUES (1, 'é'), (2, NULL), (3, '')")
        assert peer.sql("SELECT * FROM test.t") == [("1", "é"), ("2", None), ("3", "")]
        assert peer.sql("SELECT * FROM test.t WHERE a > 3") == []
        with pytest.raises(MySqlError) as refused:
            peer.sql("SELECT * FROM test.nothing")
        assert refused.value.code == 1146
        with peer.connect() as session:
            session.query("BEGIN")
            session.query("DELETE FROM test.t")
        assert len(peer.sql("SELECT * FROM test.t")) == 3
        assert peer.status("/info")["binlog_status"] == "On"
        pids = peer.pids
    entities = [e for payload in pump.payloads for e in decode_entities(payload, "pump", 0)]
    kinds = {e.kind for e in entities if e.start_ts > before}
    assert kinds >= {EntityKind.PREWRITE, EntityKind.COMMIT}
    assert len(pids) == 3
    assert not any(_is_alive(pid) for pid in pids.values())


def test_a_part_that_does_not_start_takes_the_others_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    peer = Peer(folder, tap=tmp_path / "no" / "folder")
    with pytest.raises(RuntimeError, match=r"unikv did not start: [^\0]*no such file"):
        peer.start()
    assert peer.pids == {}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
