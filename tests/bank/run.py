"""The bank, for a while: everything started, compared until the time is up, and counted."""

import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from pyspark_theflash.client.pd import PDClient
from pyspark_theflash.client.tikv.client import TiKVClient
from pyspark_theflash.client.tikv.meta import TiKVMeta
from pyspark_theflash.clock import SystemClock
from pyspark_theflash.engine import registry
from pyspark_theflash.fs import LocalFileSystem
from pyspark_theflash.kvstore.flush import FlushLimits, OwnThread
from pyspark_theflash.kvstore.learner import Learner
from pyspark_theflash.kvstore.resolve import LockPolicy
from pyspark_theflash.schema.tidb import TidbSchemaSource
from pyspark_theflash.server.engine import EngineServer
from pyspark_theflash.types import TimeStamp
from tests.bank.compare import Difference, LearnerReader, Tables, differences, read_by_tidb
from tests.bank.crew import Crew
from tests.bank.follow import Follower
from tests.bank.schema import LiveSchema
from tests.bank.workload import SETUP, TOTAL, Workload
from tests.support.peer import Peer

CLOCK, FS = SystemClock(), LocalFileSystem()
_log = logging.getLogger(__name__)
_PAST = 40
_MONEY = ("acc", "savings", "part", "apart")
_LIMITS = FlushLimits(rows_bytes=1 << 20, delay_ms=500)


@dataclass
class Figures:
    """What was done and compared; `tables` at one of the `timestamps` each."""

    timestamps: int = 0
    tables: int = 0
    rows: int = 0
    locks_met: int = 0
    different: list[Difference] = field(default_factory=list)
    wrong_totals: list[tuple[int, str]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """What sessions did."""
    happened: Counter[str] = field(default_factory=Counter)
    """What happened to regions."""


def run(folder: Path, seconds: int, seed: int = 0) -> Figures:
    """Compare for so long."""
    figures = Figures()
    with ExitStack() as undo:
        tap = folder / "tap.jsonl"
        peer = undo.enter_context(Peer(folder / "peer", tap=tap))
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
        work = Workload(peer)
        figures.done, figures.happened = work.done, follower.happened
        rng, past = Random(seed), list[TimeStamp]()
        with Crew() as following, Crew() as working:
            following.start(follower.follow)
            for each in (work.transfers(1), work.transfers(2), work.fees, work.journal, work.ddl):
                working.start(each)
            end_ms = CLOCK.boottime_ms() + 1000 * seconds
            while CLOCK.boottime_ms() < end_ms:
                ts = rng.choice(past) if past and rng.random() < 0.2 else pd.tso()
                past = [*past, ts][-_PAST:]
                here = reader.read(ts, follower, rng.choice(clients))
                _note(figures, ts, here, read_by_tidb(session, ts))
                working.check()
                following.check()
        figures.locks_met = reader.locks_met
    return figures


def _note(figures: Figures, ts: int, here: Tables, there: Tables) -> None:
    figures.timestamps += 1
    figures.tables += len(there)
    figures.rows += sum(rows.total() for rows in there.values())
    found = differences(ts, here, there)
    figures.different += found
    for each in found:
        _log.error("%s", each)
    for side, tables in (("here", here), ("there", there)):
        total = sum(_balance(tables, name) for name in _MONEY)
        if total != TOTAL:
            figures.wrong_totals.append((ts, f"{total} {side}"))


def _balance(tables: Tables, name: str) -> float:
    # `savings` may have a column in front: its balance is the last one.
    at = -1 if name == "savings" else 1
    return sum(float(row[at]) * count for row, count in tables[name].items())
