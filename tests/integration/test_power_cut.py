"""The power cut at every sync of a spool, and of the making of a store; the kit cuts engines'.

What was acknowledged is there, and what is there is whole.
"""

import logging
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import StoreNotFoundError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.folder import StoreIdentity, create_store, read_identity
from pyspark_theflash.testing.failures import HISTORY
from pyspark_theflash.testing.power import Power
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support import binlog_writer
from tests.support.feeds import messages
from tests.support.progress import read_progress
from tests.support.workloads import check_answers, workload

FS, CLOCK = LocalFileSystem(), SystemClock()
BANK = workload("bank")
ANSWERS = list(BANK.answers())
UNTIL_TS = ANSWERS[0].snapshot_ts
_log = logging.getLogger(__name__)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (path := tmp_path / "root").mkdir()
    return path


@pytest.mark.parametrize("has_folder", [False, True])
def test_the_making_of_a_store(has_folder: bool, root: Path, tmp_path: Path) -> None:
    if has_folder:
        (root / "store").mkdir()
    identity, is_made = StoreIdentity("id", registry.MAGIC), False

    def check(left: Path) -> None:
        try:
            stored = read_identity(left / "store", FS)
        except StoreNotFoundError:
            assert not is_made
            create_store(left / "store", identity, FS)
        else:
            assert stored == identity
        with closing(registry.open_engine(left / "store", identity, FS, CLOCK)) as engine:
            engine.publish(HISTORY[0])

    power = Power(root, tmp_path / "left", check)
    with power.watched():
        create_store(root / "store", identity, FS)
        is_made = True
        power.look()
    assert power.syncs >= 6


def test_a_spool(root: Path, tmp_path: Path) -> None:
    """The cluster's id is durable before it is relied on, too."""
    sent = [binlog_writer.commit(n, n + 1) for n in range(1, 20)]
    acknowledged: list[bytes] = []
    cluster_id = None

    def check(left: Path) -> None:
        with closing(Spool(left / "spool", FS)) as spool:
            stored = [frame.payload for frame in spool.source().frames()]
            assert stored[: len(acknowledged)] == acknowledged
            assert stored == sent[: len(stored)]
            assert cluster_id in (None, spool.cluster_id())

    power = Power(root, tmp_path / "left", check)
    with power.watched(), closing(Spool(root / "spool", FS, file_bytes=80)) as spool:
        for message in sent:
            spool.append([message])
            acknowledged.append(message)
            power.look()
            if len(acknowledged) == 5:
                spool.check_cluster(7)
                cluster_id = 7
    assert len(list((root / "spool").glob("binlog*"))) > 3
    _log.info("spool: %d power cuts at %d syncs", power.cuts, power.syncs)


@pytest.mark.parametrize("step", [60, pytest.param(3, marks=pytest.mark.slow)])
def test_what_a_pump_has_taken(step: int, root: Path, tmp_path: Path) -> None:
    """It is in the spool until it is in the store: with the rest, all answers come."""
    content = messages(BANK, UNTIL_TS)
    taken = 0

    def poll(store: Path, spool: Spool) -> None:
        identity = read_identity(store, FS)
        with closing(registry.open_engine(store, identity, FS, CLOCK)) as engine:
            writer = Writer(engine, FileSchema(BANK.schema))
            if BANK.base:
                writer.load_base(BANK.base)
            writer.poll(spool.source())
            if writer.position is not None:
                spool.drop_before(writer.position)

    def check(left: Path) -> None:
        with closing(Spool(left / "store" / "spool", FS)) as spool:
            spool.append(content[taken:])
            poll(left / "store", spool)
        progress = read_progress(left / "store")
        assert progress is not None
        assert progress.resolved_ts == UNTIL_TS
        assert check_answers(left / "store", [a for a in ANSWERS if a.snapshot_ts == UNTIL_TS])

    registry.create(root / "store", registry.MAGIC, FS)
    power = Power(root, tmp_path / "left", check, step)
    with power.watched(), closing(Spool(root / "store" / "spool", FS, file_bytes=9_000)) as spool:
        for at in range(0, len(content), 100):
            spool.append(content[at : at + 100])
            taken = min(at + 100, len(content))
            if at % 300 == 0:
                poll(root / "store", spool)
        poll(root / "store", spool)
    assert len(list((root / "store" / "spool").glob("binlog*"))) < 3
    _log.info("pump: %d power cuts at %d syncs", power.cuts, power.syncs)
