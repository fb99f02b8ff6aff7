"""The bank, for a while: everything started, compared until the time is up, and counted."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.cluster.resolve import LockPolicy
from pyspark_theflash.cluster.tikv.client import TiKVClient
from pyspark_theflash.cluster.tikv.meta import TiKVMeta
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import Engine
from pyspark_theflash.tidb.codec.key import encode_record_key
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from pyspark_theflash.tikv.flush import FlushLimits, OwnThread
from pyspark_theflash.tikv.learner import Learner
from pyspark_theflash.tikv.server import EngineServer
from tests.bank.compare import DATABASE, LearnerReader, read_by_tidb, read_from_binlog
from tests.bank.crew import Crew
from tests.bank.figures import Doubts, Figures, note, note_binlog
from tests.bank.follow import Follower
from tests.bank.schema import LiveSchema
from tests.bank.workload import ACCOUNTS, SETUP, STEP, Sessions
from tests.support.kv_writer import STAGES, dies_at
from tests.support.live_writer import Writer
from tests.support.peer import HOST, Peer
from tests.support.schema import tables_at

CLOCK, FS = SystemClock(), LocalFileSystem()
_PAST = 8
_COMPACT_S = 2
_DEATH_S = 10
_TTL_MS = 1500
# The store calculates the commit_ts of async commit before a lock is visible (`workload`).
_STAGES = tuple(stage for stage in STAGES if not stage.startswith("async"))
_BINLOG_EVERY = 5
_LIMITS = FlushLimits(rows_bytes=1 << 20)


class Replica:
    """A store that learns the regions of a cluster, with its feed and readers."""

    def __init__(self, peer: Peer, tap: Path, path: Path, schema: LiveSchema, seed: int) -> None:
        self._schema = schema
        identity = registry.create(path, registry.MAGIC, FS)
        with ExitStack() as undo:
            self._worker = OwnThread(lambda: registry.open_engine(path, identity, FS, CLOCK))
            self.learner = Learner(self._worker, schema, CLOCK, limits=_LIMITS)
            undo.callback(self.learner.close)
            server = EngineServer(self.learner, f"unix:{path.parent}/learner.sock", clock=CLOCK)
            server.start()
            undo.callback(server.stop)
            self.follower = Follower(tap, peer.kv_address, server.address, seed)
            undo.callback(self.follower.close)
            self.follower.begin()
            self.reader = LearnerReader(self.learner.store, path, identity, schema)
            undo.callback(self.reader.close)
            self._undo = undo.pop_all()

    def __enter__(self) -> "Replica":
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def count(self, ts: TimeStamp) -> dict[str, int]:
        """Return the rows of each table at a timestamp, counted in the cluster's log of regions."""
        tables = [t for t in tables_at(self._schema(ts).history, ts) if t.db == DATABASE]
        return {
            t.name: sum(self.follower.count(int(i), ts) for i in t.physical_ids) for t in tables
        }

    def compact(self, over: threading.Event) -> None:
        """Until it is over."""
        while not over.wait(_COMPACT_S):
            self._worker.run(self._compact_touched).result()
            self.follower.happened["compactions"] += 1

    def _compact_touched(self, engine: Engine) -> None:
        touched, self.learner.flusher.touched = self.learner.flusher.touched, set()
        for physical_id in sorted(touched):
            engine.compact(physical_id, self._schema.columns_of(physical_id))


class Deaths:
    """Clients that move whole rows of a table, and are killed with their locks on."""

    def __init__(self, peer: Peer, acc: TableInfo, seed: int, died: Counter[str]) -> None:
        self._peer, self._id = peer, acc.physical_ids[0]
        self._rng, self._died = Random(seed), died

    def follow(self, over: threading.Event) -> None:
        """One after the other, until it is over."""
        for stage in itertools.cycle(_STAGES):
            if over.wait(_DEATH_S):
                return
            handles = [n * STEP for n in self._rng.sample(range(ACCOUNTS), 3)]
            keys = [encode_record_key(self._id, handle) for handle in handles]
            if dies_at(stage, self._peer.pd_address, keys, _TTL_MS) is not None:
                self._died[f"clients died: {stage}"] += 1


def run(
    folder: Path,
    seconds: int,
    seed: int = 0,
    *,
    at_least: int = 1,
    binlog: bool = False,
    tell: Callable[[Figures], None] = lambda _: None,
) -> Figures:
    """Compare for so long, and at so many timestamps; `tell` how it is going after each.

    With `binlog`, TiDB writes that too, and some timestamps are compared with a store made from
    it; TiDB then commits nothing asynchronously or in one phase.
    """
    figures = Figures()
    with ExitStack() as undo:
        tap, socket = folder / "tap.jsonl", folder / "pump.sock" if binlog else None
        peer = Peer(folder / "peer", tap=tap, binlog_socket=socket)
        if socket is not None:
            undo.enter_context(_writing(peer, socket, folder / "binlog"))
        undo.enter_context(peer)
        peer.sql(*SETUP)
        pd = undo.enter_context(PDClient([peer.pd_address], clock=CLOCK))
        clients = [
            undo.enter_context(TiKVClient(pd, clock=CLOCK, policy=policy))
            for policy in (LockPolicy.WAIT, LockPolicy.RESOLVE)
        ]
        schema = LiveSchema(TidbSchemaSource(TiKVMeta(clients[0]), CLOCK), pd.tso())
        replica = undo.enter_context(Replica(peer, tap, folder / "store", schema, seed))
        session = undo.enter_context(peer.connect())
        session.query("SET time_zone = '+00:00'")
        sessions, figures.happened = Sessions(HOST, peer.ports.sql), replica.follower.happened
        figures.done = sessions.done
        (acc,) = (t for t in tables_at(schema.history, schema.history.end_ts) if t.name == "acc")
        doubts = Doubts(replica.count)
        with Crew() as crew, sessions:
            for work in (replica.follower.follow, replica.compact):
                crew.start(work)
            if not binlog:
                # They write to TiKV, and no binlog.
                crew.start(Deaths(peer, acc, seed, figures.happened).follow)
            end_ms = CLOCK.boottime_ms() + 1000 * seconds
            for ts in _timestamps(pd, seed):
                here = replica.reader.read(ts, replica.follower, clients[figures.timestamps % 2])
                there = read_by_tidb(session, ts)
                note(figures, doubts, ts, here, there)
                if binlog and figures.timestamps % _BINLOG_EVERY == 0:
                    note_binlog(figures, doubts, ts, read_from_binlog(folder / "binlog", ts), there)
                figures.locks_met = replica.reader.locks_met
                tell(figures)
                sessions.check()
                crew.check()
                if CLOCK.boottime_ms() >= end_ms and figures.timestamps >= at_least:
                    break
        doubts.ask_again(peer, session, figures)
    return figures


def _timestamps(pd: PDClient, seed: int) -> Iterator[TimeStamp]:
    """Most of them new, the others of a little while ago."""
    rng, past = Random(seed), [pd.tso()]
    while True:
        ts = rng.choice(past) if rng.random() < 0.3 else pd.tso()
        past = [*past, ts][-_PAST:]
        yield ts


@contextmanager
def _writing(peer: Peer, socket: Path, store: Path) -> Iterator[None]:
    """A store written from the binlog; TiDB starts once its pump runs."""
    registry.create(store, registry.MAGIC, FS)
    writer = Writer(peer, socket, store, "tikv")
    try:
        yield
    finally:
        if (status := writer.stop()) != 0:
            raise RuntimeError(f"the writer has ended with {status}")
