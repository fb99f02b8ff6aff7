"""The test-side TiKV of a live cluster: what its store was asked, as logs of regions, to a learner.

The store has no raft, so its regions and their logs are made here (`raft_tikv`): they are cut where
TiDB splits its own, and split, merge, are lost and come back at random (`region_storm`).

A read index
------------

The log up to a leader's read index has everything that may commit at or below snapshot_ts.
The tap writes down what changes something before it is answered, one call at a time. A call of no
effect, made after snapshot_ts was given out, is a mark: what has a commit_ts at or below it was
locked, or committed in one phase, in an earlier line. So once the follower is past the mark, a
region's own index is the read index.
"""

import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import grpc

from pyspark_theflash.base.clock import Deadline, SystemClock
from pyspark_theflash.base.types import RegionEpoch, RegionID, TimeStamp
from pyspark_theflash.cluster.located import LocatedRegion, RawKeyRange
from pyspark_theflash.tidb.codec.bytes import decode_bytes
from pyspark_theflash.tidb.codec.key import RawKey
from tests.support.engine_client import EngineClient
from tests.support.kv_tap import Call, Message
from tests.support.percolator_records import uvarint
from tests.support.raft_tikv import Change, FakeRaftCluster, FakeRegion, batch, encoded
from tests.support.region_storm import Storm

CLOCK = SystemClock()
_MARK = "KVPessimisticRollback"
# Context.region_id: what no region is asked changes nothing, for sure.
_NO_REGION = b"\x0a\x07\x08" + uvarint(1 << 40)
_STEP_MS = 600
_TURN_MS = 20
_COLLECT_MS = 20_000
_REGIONS_MAX = 60
_AGAIN_MAX = 30
_STREAM_S = 7200.0


class Tap:
    """The lines of a tap's file, as they are written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""
        self._lines = itertools.count()

    def read(self) -> list[Call]:
        """The calls since the last time that did not fail."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [call for line in lines if (call := self._call(line)) is not None]

    def _call(self, line: bytes) -> Call | None:
        entry, number = json.loads(line), next(self._lines)
        if entry["err"]:
            return None
        request, answer = (Message(bytes.fromhex(entry[name])) for name in ("req", "resp"))
        return Call(number, entry["rpc"], request, answer)

    def close(self) -> None:
        self._file.close()


class MirroredTikv(FakeRaftCluster):
    """A fake TiKV that cuts its regions where the cluster does."""

    lost: frozenset[int] = frozenset()
    splits = 0

    def _on_splitregion(self, request: Message, answer: Message) -> list[Change]:
        if answer.many(1):
            return []
        by_region: dict[int, set[bytes]] = {}
        for raw in request.many(3):
            key = encoded(raw)
            region = self.region_of(key)
            if key > region.start and region.id not in self.lost:
                by_region.setdefault(region.id, set()).add(key)
        for keys in by_region.values():
            self.split(sorted(keys))
            self.splits += 1
        return []


class Feed:
    """A stream of batches to the learner, whose answers are read in a separate thread."""

    def __init__(self, client: EngineClient) -> None:
        self._stream = client.commands(_STREAM_S)
        self._failure: grpc.RpcError | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        if self._failure is not None:
            raise RuntimeError("the learner takes no more commands") from self._failure
        self._stream.put(data)

    def end(self) -> None:
        """Returns when all is applied."""
        self._stream.close()
        self._thread.join()
        if self._failure is not None:
            raise RuntimeError("the learner has refused commands") from self._failure

    def _read(self) -> None:
        try:
            for _ in self._stream.answers():
                pass
        except grpc.RpcError as error:
            self._failure = error


class Follower:
    """Follows a cluster's tap and has a learner follow in turn. A `Followed`, and a `Leaders`.

    All that changes does so in the thread that calls `begin`, then `follow`.
    """

    def __init__(self, tap: Path, store_address: str, engine_address: str, seed: int) -> None:
        self.tikv = MirroredTikv()
        self.happened: Counter[str] = Counter()
        self._moved = threading.Condition(threading.RLock())
        self._tap, self._store_address = Tap(tap), store_address
        self._client = EngineClient(engine_address)
        self._feed = Feed(self._client)
        self._rng = random.Random(seed)
        self._storm = Storm(self, self._rng, _REGIONS_MAX)
        self._marks = itertools.count(1)
        self._seen_mark = 0
        self._sent: list[bytes] = []
        self._safe_points: list[int] = []
        self._regions: list[LocatedRegion] = []
        self._marked_ts = TimeStamp(0)

    # Operations of a storm.

    def catch_up(self, rng: random.Random, without: frozenset[int]) -> None:
        if not self.tikv.log:
            return
        again = rng.choice([0, 0, 0, 1, 5, _AGAIN_MAX])
        own = [entry for region_id, _, entry in self.tikv.log if region_id not in without]
        self.send([*self._sent[len(self._sent) - again :], *own] if again else own)
        self._sent = [*self._sent, *own][-_AGAIN_MAX:]
        self.happened["commands"] += len(own)
        self._forget_log()

    def send(self, entries: Iterable[bytes]) -> None:
        self._feed.put(batch(entries))

    def install(self, region: FakeRegion) -> None:
        # TiKV applies earlier commands before a snapshot; here they are in another stream.
        self._feed.end()
        self._feed = Feed(self._client)
        self._client.install(self.tikv.snapshot(region, chunk_pairs=200))

    def flush(self) -> None:
        command = self.tikv._entry(self._rng.choice(self._storm.some()))
        command.header.sync_log = True
        self.tikv._append(self.tikv.regions[command.header.region_id], command)

    # Following.

    def begin(self) -> None:
        """Send the learner the state so far in snapshots."""
        for call in self._tap.read():
            self.tikv.call(call)
        self._forget_log()
        for region in self._storm.some():
            self.install(region)
        self._regions = self._look()

    def follow(self, over: threading.Event) -> None:
        """Until it is over."""
        step_ms = collect_ms = CLOCK.boottime_ms()
        while not over.is_set():
            calls = self._tap.read()
            with self._moved:
                for call in calls:
                    self._take(call)
                if CLOCK.boottime_ms() >= step_ms:
                    self._step()
                    step_ms = CLOCK.boottime_ms() + self._rng.randint(1, 2 * _STEP_MS)
                if CLOCK.boottime_ms() >= collect_ms:
                    self._collect()
                    collect_ms += _COLLECT_MS
                self.catch_up(self._rng, self._storm.without)
                self._moved.notify_all()
            CLOCK.sleep_ms(_TURN_MS)
        self._feed.end()

    def close(self) -> None:
        self._client.close()
        self._tap.close()

    def _take(self, call: Call) -> None:
        if call.rpc == _MARK and not call.request.many(4):
            self._seen_mark = max(self._seen_mark, call.request.number(2))
        else:
            self.happened["calls"] += 1
            self.tikv.call(call)

    def _step(self) -> None:
        if self._storm.lost is None:
            self.happened[self._storm.step()] += 1
        else:
            self._storm.come_back()
            self.happened["come_back"] += 1
        self.tikv.lost = self._storm.without

    def _collect(self) -> None:
        """Collect garbage up to the newest commit of two turns ago."""
        newest = max((writes[-1][0] for writes in self.tikv.writes.values() if writes), default=0)
        self._safe_points.append(newest)
        if len(self._safe_points) > 2:
            self.tikv.write(self.tikv.collect(self._safe_points.pop(0)))

    def _forget_log(self) -> None:
        self.tikv.log.clear()
        self.tikv.admins.clear()

    def count(self, physical_id: int, ts: int) -> int:
        """Return the number of rows of a physical table at a recent timestamp."""
        prefix = b"t" + (physical_id + 2**63).to_bytes(8, "big") + b"_r"
        with self._moved:
            return len(self.tikv.read(prefix, ts))

    # Leaders, for one reader.

    def cover(
        self, ranges: Sequence[RawKeyRange], deadline: Deadline
    ) -> list[tuple[LocatedRegion, list[RawKeyRange]]]:
        covering = [(region, region.parts_of(ranges)) for region in self._regions]
        return [(region, parts) for region, parts in covering if parts]

    def read_index(
        self,
        region: LocatedRegion,
        ranges: Sequence[RawKeyRange],
        snapshot_ts: TimeStamp,
        deadline: Deadline,
    ) -> int | None:
        if snapshot_ts > self._marked_ts:
            self._pass_mark(deadline)
            self._marked_ts = snapshot_ts
        with self._moved:
            now = self.tikv.regions.get(region.id)
            if now is None or now.version != region.epoch.version:
                self._regions = self._look()
                self.happened["stale regions"] += 1
                return None
            return now.index

    def _pass_mark(self, deadline: Deadline) -> None:
        mark = next(self._marks)
        with grpc.insecure_channel(self._store_address) as channel:
            ask = channel.unary_unary(f"/tikvpb.Tikv/{_MARK}")
            ask(_NO_REGION + b"\x10" + uvarint(mark), timeout=deadline.left_ms() / 1000)
        with self._moved:
            left_s = deadline.left_ms() / 1000
            if not self._moved.wait_for(lambda: self._seen_mark >= mark, left_s):
                raise RuntimeError(f"mark {mark} has not come by")

    def _look(self) -> list[LocatedRegion]:
        with self._moved:
            return [
                LocatedRegion(
                    RegionID(r.id),
                    RawKeyRange(_raw(r.start), _raw(r.end)),
                    RegionEpoch(r.conf_ver, r.version),
                )
                for r in self._storm.some()
            ]


def _raw(key: bytes) -> RawKey:
    return RawKey(decode_bytes(key)[0] if key else b"")
