"""`theflash capture`: a recording has what TiDB has committed."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.cli.main import main
from pyspark_theflash.replication.cdc.matcher import CommittedRows, Matcher
from pyspark_theflash.replication.cdc.recording import FRAME, REQUEST, read_recording
from pyspark_theflash.replication.cdc.spans import SpanPiece
from pyspark_theflash.replication.cdc.wire import (
    PUT,
    FeedError,
    RegionsProgress,
    decode_changes,
    decode_frames,
    decode_request,
)
from pyspark_theflash.tidb.codec.key import RawKey, decode_record_key
from tests.support.peer import Peer
from tests.support.processes import wait_until

pytestmark = pytest.mark.peer

CHANGES = [(1, True), (2, False), (2, True)]


@pytest.fixture(params=["v8.5", "v6.5"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    with Peer(tmp_path / "peer", cdc=request.param) as peer:
        yield peer


def test_a_recording(peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "feed"
    peer.sql(
        "CREATE DATABASE shop",
        "CREATE TABLE shop.a (id BIGINT PRIMARY KEY, v VARCHAR(20))",
        "CREATE TABLE shop.b (id BIGINT PRIMARY KEY, v VARCHAR(20))",
        "INSERT INTO shop.a VALUES (1, 'before')",
    )
    from_ts = peer.tso()
    peer.sql("INSERT INTO shop.a VALUES (2, 'a secret')", "INSERT INTO shop.b VALUES (9, 'b')")
    command = [sys.executable, "-m", "pyspark_theflash.cli.main", "capture", str(file)]
    command += ["--pd", peer.pd_address, "--tables", "shop.a", "--from", str(from_ts)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until(file.exists, 60_000)
            peer.sql(
                "UPDATE shop.a SET v = 'changed' WHERE id = 1", "DELETE FROM shop.a WHERE id = 2"
            )
            wait_until(lambda: committed(file) == CHANGES, 60_000)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "recording 1 tables from" in output
    assert committed(file) == CHANGES
    assert main(["capture", str(file), "--show"]) == 0
    shown = capsys.readouterr().out
    assert "committed put table" in shown
    assert "a secret" not in shown
    assert b"a secret".hex() not in shown
    assert main(command[3:]) == 2
    assert "cannot be created: File exists" in capsys.readouterr().err


def committed(file: Path) -> list[tuple[int | bytes, bool]]:
    """Return the handles of a recording's rows, and whether each was put or deleted."""
    matchers: dict[tuple[int, int, int], Matcher] = {}
    rows = CommittedRows()
    with suppress(CorruptionError):  # a file that is being written has no end
        for item in read_recording(file):
            if item.kind == REQUEST:
                request = decode_request(item.data)
                piece = SpanPiece(request.keys, request.keys, request.checkpoint_ts)
                key = (item.stream, request.region_id, request.request_id)
                matchers[key] = Matcher([piece], request.checkpoint_ts)
            elif item.kind == FRAME:
                for event in decode_frames([item.data]):
                    if isinstance(event, RegionsProgress):
                        for region_id in event.region_ids:
                            matcher = matchers[item.stream, region_id, event.request_id]
                            matcher.advance(event.resolved_ts, rows)
                    elif not isinstance(event[2], FeedError):
                        changes = decode_changes(event[2])
                        matchers[item.stream, event[0], event[1]].add(changes, rows)
    versions = {(k, ts, op) for k, ts, op in zip(rows.keys, rows.commit_ts, rows.ops, strict=True)}
    return sorted(
        (decode_record_key(RawKey(key)).handle, op == PUT)
        for key, _, op in versions
        if key[:1] == b"t"
    )
