"""Tickets and handles, and the key that seals them."""

import threading
from dataclasses import replace

import pytest

from pyspark_theflash.base.errors import CorruptionError, TicketError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import MAX_TS, Generation, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.service.api.call import local_identity
from pyspark_theflash.service.api.seal import (
    KEY_FILE,
    Purpose,
    SealedScan,
    Sealer,
    StoreSealer,
    Ticket,
    new_key,
    opened_handle,
    sealed_handle,
)
from pyspark_theflash.service.wire.message import Expression, PlanRequest
from pyspark_theflash.storage.engine.api import RegionScan
from pyspark_theflash.storage.engine.magic.file import DataFile, FileKind
from pyspark_theflash.storage.engine.magic.layout import RegionFiles
from pyspark_theflash.storage.engine.magic.region import first_region
from pyspark_theflash.storage.store.latch.lease import ReadLease
from pyspark_theflash.testing.faulty_fs import Failure, FaultyFileSystem

FS = LocalFileSystem()
LEASE = ReadLease("id", TimeStamp(1 << 63), Generation(7), 1000)
PUSHED = PlanRequest(
    filter=Expression("=", arguments=(Expression("column", "\N{SNOWMAN}"),) * 2), limit=3
)
FILE = DataFile(
    *(9, PhysicalTableID(1), RegionID(2), "1/9.parquet", FileKind.STABLE, 1, 2, 3, 4, 5, 6, 0, 9),
    *(TimeStamp(1), TimeStamp(2), MAX_TS, False, True, False),
)
TICKET = Ticket(
    "store",
    LEASE,
    SealedScan("db.table", ("a", "\N{SNOWMAN}"), None, "raise", False, PUSHED),
    RegionScan(
        PhysicalTableID(1), RegionID(2), RegionFiles(first_region(PhysicalTableID(1)), (FILE,))
    ),
)
SEALER = Sealer(b"k" * 32)


def test_tickets_come_back():
    memory = RegionScan(PhysicalTableID(1), RegionID(0), overlay="id")
    overlaid = replace(TICKET.region, overlay="id")
    for region in (TICKET.region, memory, overlaid):
        ticket = replace(TICKET, region=region)
        assert Ticket.opened(ticket.sealed(SEALER), SEALER, "magic") == ticket
    handle = sealed_handle("store", LEASE, "token 1", SEALER)
    assert opened_handle(handle, "token 1", SEALER) == ("store", LEASE)
    for other in ("token 2", ""):
        with pytest.raises(TicketError):
            opened_handle(handle, other, SEALER)


def test_one_is_not_taken_for_the_other():
    with pytest.raises(TicketError):
        opened_handle(TICKET.sealed(SEALER), "", SEALER)
    with pytest.raises(TicketError):
        Ticket.opened(sealed_handle("store", LEASE, "", SEALER), SEALER, "magic")


@pytest.mark.parametrize("body", [7, [], {"a": 1}, ["store", [1], [2], [3]], None])
def test_what_we_sealed_ourselves_and_do_not_know(body):
    """For example a ticket of a later version."""
    with pytest.raises(TicketError):
        Ticket.opened(SEALER.seal(Purpose.TICKET, body), SEALER, "magic")
    with pytest.raises(TicketError):
        opened_handle(SEALER.seal(Purpose.HANDLE, body), "", SEALER)


def test_another_callers_handle_is_refused_like_a_forged_one():
    handle = sealed_handle("store", LEASE, "token a", SEALER)
    texts = set()
    for wrong, identity in ((handle, "token b"), (handle[:-1] + b"x", "token a"), (b"", "token a")):
        with pytest.raises(TicketError) as caught:
            opened_handle(wrong, identity, SEALER)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_a_handle_without_an_identity_is_of_no_caller():
    fields = ["store", [LEASE.id, LEASE.snapshot_ts, 7, 1000, False]]
    for identity in ("", "token a", local_identity()):
        with pytest.raises(TicketError):
            opened_handle(SEALER.seal(Purpose.HANDLE, fields), identity, SEALER)


def test_the_key_is_the_stores(tmp_path):
    """The first caller creates it; the others use it."""
    sealed = []

    def seal():
        sealed.append(sealer_of(tmp_path).get().seal(Purpose.TICKET, "x"))

    threads = [threading.Thread(target=seal) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sealed) == 8
    assert len(set(sealed)) == 1
    assert [p.name for p in tmp_path.iterdir()] == [KEY_FILE]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_damaged_key(tmp_path):
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(CorruptionError, match="not a key"):
        sealer_of(tmp_path).get()


def test_a_full_disk(tmp_path):
    """Nothing is left of the key that did not fit, and scans go on with the spare one.

    Of the processes of one server, which share it, each takes what the others have given out,
    before there is room and after.
    """
    spare = new_key()
    poor = StoreSealer(tmp_path, FaultyFileSystem(Failure.FULL, 0), spare)
    before = TICKET.sealed(poor.get())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TicketError):
        Ticket.opened(before, sealer_of(tmp_path).get(), "magic")
    (tmp_path / KEY_FILE).unlink()
    assert Ticket.opened(before, StoreSealer(tmp_path, FS, spare).get(), "magic") == TICKET
    after = TICKET.sealed(sealer_of(tmp_path).get())
    for ticket in (before, after):
        assert Ticket.opened(ticket, poor.get(), "magic") == TICKET


def sealer_of(store):
    return StoreSealer(store, FS, new_key())
