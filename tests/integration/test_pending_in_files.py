"""Large pending transactions are not stored in the manifest, also if they are in the spill file."""

from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication.apply import state
from pyspark_theflash.replication.pairing import pairing as pairing_module
from pyspark_theflash.replication.pairing.pending import PENDING_KIND
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support.binlog_writer import INSERT, frames, prewrite, prewrite_value, rollback
from tests.support.workloads import workload

FS, CLOCK = LocalFileSystem(), SystemClock()
BANK = workload("bank")
VALUE = prewrite_value(1, {7: [(INSERT, b"\x08" + bytes(10_000))]})


@pytest.mark.parametrize("most_bytes", [5_000, 1 << 20])
def test_spilled_transactions_count_for_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    monkeypatch.setattr(pairing_module, "BUDGET_BYTES", 1)
    monkeypatch.setattr(pairing_module, "WORTH_BYTES", 1)
    monkeypatch.setattr(state, "MOST_PENDING_BYTES", most_bytes)
    is_stored = most_bytes > len(VALUE)
    identity = registry.create(tmp_path / "store", registry.MAGIC, FS)
    engine = registry.open_engine(tmp_path / "store", identity, FS, CLOCK)
    first_ts = min(answer.snapshot_ts for answer in BANK.answers())
    source = tmp_path / "source.bin"
    source.write_bytes(frames([prewrite(first_ts, VALUE)]))
    try:
        writer = Writer(engine, FileSchema(BANK.schema), clock=CLOCK)
        for _ in range(3):
            writer.poll(FileSource(source))
            assert len(_pending(engine)) == is_stored
            assert (writer.position is None) == (not is_stored)
        source.write_bytes(frames([prewrite(first_ts, VALUE), rollback(first_ts)]))
        writer.poll(FileSource(source))
        assert not _pending(engine)
        assert writer.position is not None
    finally:
        engine.close()


def _pending(engine: WriterEngine) -> list[str]:
    return list(engine.read([PENDING_KIND]).of_kind(PENDING_KIND))
