"""A publication that does not fit in memory, on its way to a server."""

import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.service.client import spilled_tables
from pyspark_theflash.service.client.remote_engine import RemoteEngine
from pyspark_theflash.service.client.spilled_tables import SpilledTables
from pyspark_theflash.service.wire import message
from pyspark_theflash.storage.engine.api import Publication, VersionBatch
from pyspark_theflash.storage.store.manifest import ManifestChange


def batch_of(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"n": pa.array([number] * 1000)})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilled_tables, "MEMORY_BYTES", 20_000)


def test_tables_can_be_iterated_again(tmp_path: Path) -> None:
    tables = SpilledTables(tmp_path)
    every = [pa.Table.from_batches([batch_of(n)]) for n in range(9)]
    for table in every:
        tables.add(table)
    assert list(tables) == every
    assert list(tables) == every
    in_memory = [each for each in tables._tables if isinstance(each, pa.Table)]
    assert len(in_memory) == 2


class Server:
    """A transport to a server that grants a latch, and accepts publications."""

    def __init__(self) -> None:
        self.alive: list[int] = []
        self.seen: list[weakref.ref[pa.Table]] = []
        self.ids: tuple[int, ...] = ()

    def call(
        self,
        called: Any,
        request: object,
        timeout_ms: int,
        tables: Iterable[pa.Table] | None = None,
    ) -> object:
        if called.name == "AcquireLatch":
            return message.Latch(id="latch", token=1)
        if isinstance(request, message.PublishRequest):
            self.ids = request.physical_ids
            for table in tables or ():
                self.seen.append(weakref.ref(table))
                self.alive.append(sum(each() is not None for each in self.seen))
            return message.Published(5)
        return message.Done("done")

    def close(self) -> None:
        """Do nothing."""


def test_a_publication_is_not_held_in_memory(tmp_path: Path) -> None:
    server, made, alive = Server(), list[weakref.ref[pa.RecordBatch]](), list[int]()

    def versions() -> Iterator[VersionBatch]:
        for n in range(50):
            batch = batch_of(n)
            made.append(weakref.ref(batch))
            yield VersionBatch(PhysicalTableID(n), batch)
            del batch
            alive.append(sum(each() is not None for each in made))

    engine = RemoteEngine(lambda: server, folder=tmp_path)  # type: ignore[arg-type, return-value]
    engine.open()
    engine.publish(Publication(versions(), ManifestChange()))
    engine.close()
    assert server.ids == tuple(range(50))
    # Two fit in memory, and one is under way.
    assert max(alive) <= 3
    assert len(server.alive) == 51
    assert max(server.alive) <= 5
