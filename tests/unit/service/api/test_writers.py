"""A stream's writer at a service: the engine belongs to the identity of its latch."""

import weakref
from contextlib import closing

import pyarrow as pa
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import LatchLostError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.records import change_table
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.api.write import Incoming
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import METHODS, Role
from pyspark_theflash.service.wire.stream import StreamEncoder
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.storage.store.manifest import ManifestChange
from pyspark_theflash.testing.histories import version_batch

CLOCK, FS = SystemClock(), LocalFileSystem()


@pytest.fixture
def service(tmp_path):
    registry.create(tmp_path / "store", registry.MAGIC, FS)
    with closing(Service(tmp_path / "store", fs=FS, clock=CLOCK)) as made:
        yield made


def answer(service, identity, name, request):
    call = CallContext(name, 60_000, CLOCK, role=Role.WRITE, identity=identity)
    return service.answer(METHODS[name], request, call)


def test_another_identity_neither_uses_nor_ends_it(service):
    wanted = message.AcquireRequest("write", name="writer", ttl_ms=60_000)
    latch = answer(service, "token a", "AcquireLatch", wanted)
    held = message.LatchRequest(latch.id, latch.token)
    answer(service, "token a", "OpenWriter", message.WriterRequest(held))
    for wrong in (held, message.LatchRequest("0" * 32, latch.token)):
        with pytest.raises(LatchLostError):
            answer(service, "token b", "OpenWriter", message.WriterRequest(wrong))
        for name, request in (
            ("ReadRecords", message.RecordsRequest(wrong, ("progress",))),
            ("Maintain", message.MaintainRequest(wrong)),
        ):
            with pytest.raises(LatchLostError):
                answer(service, "token b", name, request)
    answer(service, "token a", "Maintain", message.MaintainRequest(held))


class TablesOfFile:
    """Tables that are made when they are wanted, and how many there were at a time."""

    def __init__(self, count):
        self.count, self.made, self.alive = count, [], []

    def __iter__(self):
        yield change_table(ManifestChange())
        for number in range(self.count):
            rows = [(number, 10, 9, 1, number)]
            table = pa.Table.from_batches([version_batch(rows, [(ColumnID(1), pa.int64())])])
            self.made.append(weakref.ref(table))
            yield table
            del table
            self.alive.append(sum(each() is not None for each in self.made))


def test_a_publication_is_checked_and_written_table_by_table(service):
    wanted = message.AcquireRequest("write", name="writer", ttl_ms=60_000)
    latch = answer(service, "token a", "AcquireLatch", wanted)
    held = message.LatchRequest(latch.id, latch.token)
    answer(service, "token a", "OpenWriter", message.WriterRequest(held))
    tables = TablesOfFile(20)
    request = message.PublishRequest(held, 1, tuple(range(100, 120)))
    call = CallContext("Publish", 60_000, CLOCK, role=Role.WRITE, identity="token a")
    assert service.answer(METHODS["Publish"], request, call, tables).generation
    assert len(tables.alive) == 20
    assert max(tables.alive) <= 2


def test_tables_in_a_file_can_be_iterated_again(tmp_path):
    incoming = Incoming(tmp_path)
    table = pa.table({"n": list(range(100_000))})
    encoder = StreamEncoder()
    with incoming:
        for _ in range(3):
            for parts in encoder.encode(table.schema, table.to_batches()):
                for part in parts:
                    incoming.add(bytes(part))
        tables, batches = incoming.tables(3)
    assert (len(tables), batches) == (3, 3)
    for _ in range(2):
        assert list(tables) == [table] * 3
