"""A stream's writer at a service: the engine belongs to the identity of its latch."""

from contextlib import closing

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import LatchLostError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.service.api.call import CallContext
from pyspark_theflash.service.api.service import Service
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.method import METHODS, Role
from pyspark_theflash.storage.engine import registry

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
