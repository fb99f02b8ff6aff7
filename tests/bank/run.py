"""The bank, for a while: everything started, compared until the time is up, and counted."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from pyspark_theflash.client.pd import PDClient
from pyspark_theflash.client.tikv.client import TiKVClient
from pyspark_theflash.client.tikv.meta import TiKVMeta
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.codec.key import encode_record_key
from pyspark_theflash.engine import registry
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.kvstore.flush import FlushLimits, OwnThread
from pyspark_theflash.kvstore.learner import Learner
from pyspark_theflash.kvstore.resolve import LockPolicy
from pyspark_theflash.schema.tidb import TidbSchemaSource
from pyspark_theflash.server.engine import EngineServer
from pyspark_theflash.types import TimeStamp
from tests.bank.compare import (
    Difference,
    LearnerReader,
    Tables,
    differences,
    read_by_tidb,
    read_from_binlog,
)
from tests.bank.crew import Crew
from tests.bank.follow import Follower
from tests.bank.schema import LiveSchema
from tests.bank.workload import ACCOUNTS, SETUP, STEP, TOTAL, Sessions
from tests.support.kv_writer import STAGES, dies_at
from tests.support.live_writer import Writer
from tests.support.mysql import MySqlConnection
from tests.support.peer import HOST, Peer

CLOCK, FS = SystemClock(), LocalFileSystem()
_PAST = 40
_COMPACT_S = 2
_DEATH_S = 10
_TTL_MS = 1500
# The store calculates the commit_ts of async commit before anybody can see a lock (`workload`).
_STAGES = tuple(stage for stage in STAGES if not stage.startswith("async"))
_BINLOG_EVERY = 5
_OTHER_SCHEMAS = [f"CREATE DATABASE other{n}" for n in range(40)]
_MONEY = ("acc", "savings", "part", "apart")
_LIMITS = FlushLimits(rows_bytes=1 << 20)


@dataclass
class Figures:
    """What was done and compared; `tables` at one of the `timestamps` each."""

    timestamps: int = 0
    tables: int = 0
    rows: int = 0
    locks_met: int = 0
    from_binlog: int = 0
    asked_again: int = 0
    """Timestamps at which TiDB's first answer was another (see `Doubts`)."""
    different: list[Difference] = field(default_factory=list)
    wrong_totals: list[tuple[int, str]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """What sessions did."""
    happened: Counter[str] = field(default_factory=Counter)
    """What happened to regions."""


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
        identity = registry.create(folder / "store", registry.MAGIC, FS)
        worker = OwnThread(lambda: registry.open_engine(folder / "store", identity, FS, CLOCK))
        learner = Learner(worker, schema, CLOCK, limits=_LIMITS)
        undo.callback(learner.close)
        server = EngineServer(learner, "127.0.0.1:0", clock=CLOCK)
        server.start()
        undo.callback(server.stop)
        follower = Follower(tap, peer.kv_address, server.address, seed)
        undo.callback(follower.close)
        follower.begin()
        reader = LearnerReader(learner.store, folder / "store", identity, schema)
        undo.callback(reader.close)
        session = undo.enter_context(peer.connect())
        session.query("SET time_zone = '+00:00'")
        sessions, figures.happened = Sessions(HOST, peer.ports.sql), follower.happened
        figures.done = sessions.done
        rng, rng_of_dead, past = Random(seed), Random(seed + 1), list[TimeStamp]()

        def compact(over: threading.Event) -> None:
            while not over.wait(_COMPACT_S):
                learner.compact(schema.columns_of)
                figures.happened["compactions"] += 1

        (acc,) = (t for t in schema.history.tables_at(schema.history.end_ts) if t.name == "acc")

        def die(over: threading.Event) -> None:
            """Clients that move whole rows, and are killed with their locks on."""
            for stage in itertools.cycle(_STAGES):
                if over.wait(_DEATH_S):
                    return
                handles = [n * STEP for n in rng_of_dead.sample(range(ACCOUNTS), 3)]
                keys = [encode_record_key(acc.physical_ids[0], h) for h in handles]
                if dies_at(stage, peer.pd_address, keys, _TTL_MS) is not None:
                    figures.happened[f"clients died: {stage}"] += 1

        doubts = Doubts()
        with Crew() as crew, sessions:
            crew.start(follower.follow)
            crew.start(compact)
            crew.start(die)
            end_ms = CLOCK.boottime_ms() + 1000 * seconds
            while CLOCK.boottime_ms() < end_ms or figures.timestamps < at_least:
                ts = rng.choice(past) if past and rng.random() < 0.3 else pd.tso()
                past = [*past, ts][-_PAST:]
                here = reader.read(ts, follower, rng.choice(clients))
                there = read_by_tidb(session, ts)
                _note(figures, doubts, ts, here, there)
                if binlog and figures.timestamps % _BINLOG_EVERY == 0:
                    figures.from_binlog += 1
                    replica = read_from_binlog(folder / "binlog", ts)
                    if differences(ts, replica, there):
                        doubts.add(ts, replica, "from the binlog")
                figures.locks_met = reader.locks_met
                tell(figures)
                sessions.check()
                crew.check()
        doubts.ask_again(peer, session, figures)
    return figures


@contextmanager
def _writing(peer: Peer, socket: Path, store: Path) -> Iterator[None]:
    """A store written from the binlog; TiDB comes up when its pump is there."""
    registry.create(store, registry.MAGIC, FS)
    writer = Writer(peer, socket, store, "tikv")
    try:
        yield
    finally:
        if (status := writer.stop()) != 0:
            raise RuntimeError(f"the writer has ended with {status}")


class Doubts:
    """Answers that were not the same, to be compared again when TiDB has forgotten its schemas.

    TiDB keeps the last 16 schemas that it has loaded, and takes one of these for a `tidb_snapshot`:
    the newest, although DDL may have gone on, if the timestamp is newer than its last look, and the
    one before, if it has loaded two versions at once (`InfoCache.GetBySnapshotTS`, `GetByVersion`).
    So a TiDB that is slow may read a timestamp by an older schema than it had then; once others
    have come it loads the right one.
    """

    def __init__(self) -> None:
        self._answers: list[tuple[TimeStamp, Tables, str]] = []

    def add(self, ts: TimeStamp, answer: Tables, where: str) -> None:
        self._answers.append((ts, answer, where))

    def ask_again(self, peer: Peer, session: MySqlConnection, figures: Figures) -> None:
        if self._answers:
            peer.sql(*_OTHER_SCHEMAS)
        figures.asked_again = len({ts for ts, _, _ in self._answers})
        for ts, answer, where in self._answers:
            there = read_by_tidb(session, ts)
            figures.different += differences(ts, answer, there)
            _check_totals(figures, ts, {where: answer, "in TiDB": there})


def _note(figures: Figures, doubts: Doubts, ts: TimeStamp, here: Tables, there: Tables) -> None:
    figures.timestamps += 1
    figures.tables += len(there)
    figures.rows += sum(rows.total() for rows in there.values())
    if differences(ts, here, there):
        doubts.add(ts, here, "here")
    else:
        _check_totals(figures, ts, {"here": here})


def _check_totals(figures: Figures, ts: int, answers: dict[str, Tables]) -> None:
    for where, tables in answers.items():
        total = sum(_balance(tables, name) for name in _MONEY)
        if total != TOTAL:
            figures.wrong_totals.append((ts, f"{total} {where}"))


def _balance(tables: Tables, name: str) -> float:
    # `savings` may have a column in front: its balance is the last one.
    at = -1 if name == "savings" else 1
    return sum(float(row[at]) * count for row, count in tables[name].items())
