"""Comparisons in another process."""

from contextlib import closing

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import InternalError, TableNotFoundError
from pyspark_theflash.cluster.pd import PDClient
from pyspark_theflash.replication.load.check_process import CheckProcess
from pyspark_theflash.replication.load.checking import CheckedTable, CheckRequest, TablesToCheck
from pyspark_theflash.replication.load.scan import ClusterAddress
from pyspark_theflash.storage.store.scope import TableScope
from tests.unit.replication.load.conftest import TABLES, filled, first_load, history, key

A, B = TABLES[:2]
WAIT_S = 120


@pytest.fixture
def request_(tikv, client, engine, tmp_path):
    load = first_load(engine, client, tikv)
    load.begin(history(filled(tikv)), TableScope(("shop.*",)))
    load.run(lambda _: None)
    load.end()
    return CheckRequest(tmp_path / "store", ClusterAddress((tikv.pd.address,)))


def test_tables_are_compared_in_a_process(tikv, request_):
    with (
        closing(CheckProcess(request_)) as process,
        PDClient([tikv.pd.address], clock=SystemClock()) as pd,
    ):
        before = pd.tso()
        tables = process.request(None).result(WAIT_S)
        assert isinstance(tables, TablesToCheck)
        assert before < tables.ts < pd.tso()
        assert tables.names == ("shop.empty", "shop.b", "shop.a")
        same = process.request("shop.a").result(WAIT_S)
        assert isinstance(same, CheckedTable)
        assert (same.table_id, same.rows, same.differences) == (A.id, 420, ())
        tikv.cluster.tikv.records[key(B, 9)] = tikv.cluster.tikv.records[key(B, 7)]
        other = process.request("shop.b").result(WAIT_S)
        assert isinstance(other, CheckedTable)
        ((physical_id, text),) = other.differences
        assert (physical_id, "missing: 9" in text) == (B.id, True)
        assert isinstance(process.request("shop.x").result(WAIT_S), TableNotFoundError)
    assert tikv.pd.service_safe_points == {b"gc_worker": 0}


def test_a_process_that_ended_is_replaced(request_):
    with closing(CheckProcess(request_)) as process:
        assert isinstance(process.request(None).result(WAIT_S), TablesToCheck)
        process._process.kill()
        assert isinstance(process.request(None).result(WAIT_S), InternalError)
        assert isinstance(process.request(None).result(WAIT_S), TablesToCheck)
    assert process._process is None
