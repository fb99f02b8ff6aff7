"""Payloads in the spill file."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    EngineError,
    StoreFullError,
    TheFlashError,
    TransactionConflictError,
)
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.pairing import pairing as pairing_module
from pyspark_theflash.replication.pairing.ledger import TransactionLedger
from pyspark_theflash.replication.pairing.pairing import Pairing
from pyspark_theflash.replication.pairing.pending import PendingTransaction
from pyspark_theflash.replication.pairing.spill import Spill, SpilledPayload, payload_bytes
from pyspark_theflash.replication.source.event import Entity, EntityKind

PAYLOADS = {n: bytes([n]) * 1000 for n in range(1, 9)}


def entity(kind: EntityKind, start_ts: int, commit_ts: int = 0, payload: bytes = b"") -> Entity:
    return Entity(kind, TimeStamp(start_ts), TimeStamp(commit_ts), payload, None, "f", 0)


@pytest.fixture
def pairing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pairing:
    """A pairing with eight pending payloads, and memory for three."""
    monkeypatch.setattr(pairing_module, "BUDGET_BYTES", 3 * 1500)
    monkeypatch.setattr(pairing_module, "WORTH_BYTES", 1)
    spilling = Pairing(TransactionLedger(), spill=Spill(tmp_path))
    for start_ts, payload in PAYLOADS.items():
        spilling.add(entity(EntityKind.PREWRITE, start_ts, payload=payload))
    return spilling


def test_what_is_put_is_read_until_nobody_needs_it(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    kept = [spill.put(payload) for payload in PAYLOADS.values()]
    assert [payload.read() for payload in kept] == list(PAYLOADS.values())
    assert len(kept[0]) == 1000
    kept.clear()
    assert spill.put(b"again").read() == b"again"
    assert list(tmp_path.iterdir()) == []


def test_any_flipped_bit_and_any_loss_is_noticed(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    first, second = spill.put(b"one" * 9), spill.put(b"two" * 9)
    fd = spill._opened()
    for bit in range(8 * len(first)):
        (byte,) = os.pread(fd, 1, bit // 8)
        os.pwrite(fd, bytes([byte ^ 1 << bit % 8]), bit // 8)
        with pytest.raises(CorruptionError, match="damaged at byte 0"):
            first.read()
        assert second.read() == b"two" * 9
        os.pwrite(fd, bytes([byte]), bit // 8)
    assert first.read() == b"one" * 9
    os.ftruncate(fd, len(first) + 1)
    with pytest.raises(CorruptionError, match="damaged at byte 27"):
        second.read()


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, StoreFullError), (errno.EIO, EngineError)]
)
def test_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[TheFlashError]
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    spill = Spill(tmp_path)
    kept = spill.put(b"kept")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail)
        with pytest.raises(expected):
            spill.put(b"lost")
        patched.setattr(os, "pread", fail)
        with pytest.raises(expected):
            kept.read()
    assert spill.put(b"again").read() == b"again"
    assert kept.read() == b"kept"


def test_more_waits_than_memory_holds(pairing: Pairing) -> None:
    spilled = [isinstance(p.payload, SpilledPayload) for p in pairing.pending()]
    assert spilled == [False] * 3 + [True] * 5
    assert pairing.buffered_bytes < 8 * 1000
    for start_ts in PAYLOADS:
        pairing.add(entity(EntityKind.COMMIT, start_ts, 100 + start_ts))
    taken = pairing.take_resolved(pairing.resolved_ts)
    assert [payload_bytes(t.payload) for t in taken] == list(PAYLOADS.values())
    assert pairing.buffered_bytes == 0


def test_it_survives_a_restart_and_is_compared(pairing: Pairing) -> None:
    again = [PendingTransaction.from_bytes(p.to_bytes()) for p in pairing.pending()]
    assert [p.payload for p in again] == list(PAYLOADS.values())
    pairing.add(entity(EntityKind.PREWRITE, 8, payload=PAYLOADS[8]))
    with pytest.raises(TransactionConflictError, match="different content"):
        pairing.add(entity(EntityKind.PREWRITE, 8, payload=PAYLOADS[7]))
