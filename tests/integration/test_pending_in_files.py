"""Large pending transactions are not stored in the manifest, also if they are in the spill file."""

from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply import state
from pyspark_theflash.replication.pairing import pairing as pairing_module
from pyspark_theflash.replication.pairing.pending import PENDING_KIND
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.tidb.schema.file import FileSchema
from tests.support.binlog_writer import (
    INSERT,
    frames,
    heartbeat,
    prewrite,
    prewrite_value,
    rollback,
)
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


def test_a_source_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the durable position stays before a pending transaction that is not stored."""
    monkeypatch.setattr(state, "MOST_PENDING_BYTES", 5_000)
    identity = registry.create(tmp_path / "store", registry.MAGIC, FS)
    first_ts = min(answer.snapshot_ts for answer in BANK.answers())
    messages = [prewrite(first_ts, VALUE)]
    with closing(registry.open_engine(tmp_path / "store", identity, FS, CLOCK)) as engine:
        writer = Writer(engine, FileSchema(BANK.schema), clock=CLOCK)
        source = tmp_path / "source.bin"
        for _ in range(3):
            source.write_bytes(frames(messages))
            assert writer.poll(FileSource(source)) == 1
            assert writer.position is None
            messages.append(heartbeat(TimeStamp(first_ts - 1)))
        # After an error it begins at the durable position again.
        source.write_bytes(frames([*messages, b"no message"]))
        with pytest.raises(CorruptionError):
            writer.poll(FileSource(source))
        source.write_bytes(frames(messages))
        assert writer.poll(FileSource(source)) == 4
        source.write_bytes(frames([*messages, rollback(first_ts)]))
        assert writer.poll(FileSource(source)) == 1
        assert writer.position is not None
        assert not _pending(engine)


def _pending(engine: WriterEngine) -> list[str]:
    return list(engine.read([PENDING_KIND]).of_kind(PENDING_KIND))
