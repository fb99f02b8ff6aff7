"""The changes of a live cluster's store as a raft log: its tap, divided into seconds.

unistore has no log, and its read index is the time in seconds. So the changes of a second are one
command of each region, whose index is that second, sent at its end. A reader that has waited for a
read index has all changes from before it requested the index.
"""

import json
import threading
from pathlib import Path

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.cluster.located import RawKeyRange
from pyspark_theflash.cluster.tikv.wire.directory import Directory
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.protocol._generated.kvproto import enginepb_pb2
from tests.support.engine_client import EngineClient
from tests.support.kv_tap import Call, Message
from tests.support.raft_tikv import LEARNER, STORE, FakeRaftCluster, FakeRegion, batch, encoded

CLOCK = SystemClock()
_TERM = 6


class LiveFeed:
    """Feeds a learner with the regions in PD; no region may be created afterwards."""

    def __init__(self, tap: Path, directory: Directory) -> None:
        self._tap, self._at, self._line = tap, 0, 0
        self._raft = FakeRaftCluster()
        self._read()
        now_s = CLOCK.wall_ms() // 1000
        self._raft.regions = {
            each.id: FakeRegion(
                each.id,
                encoded(each.range.start) if each.range.start else b"",
                encoded(each.range.end) if each.range.end else b"",
                each.epoch.version,
                each.epoch.conf_ver,
                # The changes of the current second may be incomplete.
                now_s - 1,
                [(1, STORE), (2, LEARNER)],
            )
            for each in directory.scan_regions(
                RawKeyRange(RawKey(b""), RawKey(b"")), Deadline(CLOCK, 10_000)
            )
        }
        self._raft._reorder()
        self._next_s = now_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self, address: str) -> None:
        """Send the regions, then their changes."""
        self._client = EngineClient(address)
        for region in self._raft.regions.values():
            self._client.install(self._raft.snapshot(region, 500))
        self._sent = len(self._raft.log)
        self._stream = self._client.commands(600)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._client.__exit__()

    def _follow(self) -> None:
        while not self._over.wait(0.1):
            last_s = CLOCK.wall_ms() // 1000 - 1
            if last_s >= self._next_s:
                self._read()
                self._send(last_s)
                self._next_s = last_s + 1

    def _send(self, second: int) -> None:
        commands = {}
        for region in self._raft.regions.values():
            command = commands[region.id] = enginepb_pb2.CommandRequest()
            command.header.region_id, command.header.index = region.id, second
            command.header.term = _TERM
        for region_id, _, entry in self._raft.log[self._sent :]:
            commands[region_id].requests.extend(
                enginepb_pb2.CommandRequest.FromString(entry).requests
            )
        self._sent = len(self._raft.log)
        self._stream.send(batch(each.SerializeToString() for each in commands.values()))

    def _read(self) -> None:
        """Apply the calls in the tap so far."""
        with self._tap.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                self._line += 1
                entry = json.loads(line)
                if not entry["err"]:
                    request, answer = (Message(bytes.fromhex(entry[k])) for k in ("req", "resp"))
                    self._raft.call(Call(self._line, entry["rpc"], request, answer))
