"""Readers of the tables that enter a store."""

from contextlib import closing
from functools import partial

import pytest

from pyspark_theflash.base.errors import PDUnavailableError
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.replication.load import scan
from pyspark_theflash.replication.load.entry import THREAD_STRIPES, ClusterLoader
from pyspark_theflash.replication.load.process import ReaderThread
from pyspark_theflash.replication.load.scan import ClusterAddress, record_keys
from pyspark_theflash.storage.mvcc.version import HANDLE, column_name
from tests.unit.replication.load.conftest import TABLES, Threads, expected, filled


def loader_of(client, tikv, opened):
    def pool(count, request):
        opened.append(count)
        return Threads(client, count, request)

    cluster = ClusterAddress((tikv.pd.address,))
    return ClusterLoader(client, cluster, lambda ts: None, processes=3, pool=pool)


def test_a_small_table_is_read_without_processes(tikv, client):
    ts, opened = filled(tikv), []
    loader, table = loader_of(client, tikv, opened), TABLES[0]
    physical_id = table.physical_ids[0]
    stripes = loader.stripes([physical_id])
    assert 1 < len(stripes) <= THREAD_STRIPES
    readers, most = loader.open({physical_id: table}, ts, len(stripes))
    assert isinstance(readers, ReaderThread)
    assert most == 2
    assert not opened
    with closing(readers):
        pieces = [readers.read(each.start, each.end) for each in stripes]
        batches = [each.batch for piece in pieces for each in piece.result().versions()]
    rows = [row for batch in batches for row in batch.select([HANDLE, column_name(2)]).to_pylist()]
    assert {row[HANDLE]: row[column_name(2)] for row in rows} == expected()


def test_large_tables_are_read_by_processes(tikv, client):
    opened = []
    loader, table = loader_of(client, tikv, opened), TABLES[0]
    tables = {table.physical_ids[0]: table}
    readers, most = loader.open(tables, filled(tikv), THREAD_STRIPES + 1)
    readers.close()
    assert (opened, most) == ([3], 4)


def test_a_thread_that_cannot_connect_reports_it(tikv, client, monkeypatch):
    monkeypatch.setattr(scan, "PDClient", partial(PDClient, timeout_ms=100))
    ts, table = filled(tikv), TABLES[0]
    tikv.pd.stop()
    loader = loader_of(client, tikv, [])
    readers, _ = loader.open({table.physical_ids[0]: table}, ts, 1)
    keys = record_keys(table.physical_ids[0])
    with closing(readers), pytest.raises(PDUnavailableError):
        readers.read(keys.start, keys.end).result()
