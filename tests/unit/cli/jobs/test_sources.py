"""Schemas of a writer, as the command line names them."""

import pytest

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.cli.jobs.sources import LiveSchema
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.manual_clock import ManualClock
from tests.support.meta_cluster import (
    ADD_COLUMN,
    CREATE_DATABASE,
    CREATE_TABLE,
    MetaCluster,
    info,
)

SHOP = 2


def live_schema(cluster, start_ts):
    clock = ManualClock()
    return LiveSchema(TidbSchemaSource(cluster, clock), start_ts, cluster.tso, clock)


@pytest.fixture
def cluster():
    cluster = MetaCluster()
    cluster.step(CREATE_DATABASE, database=(SHOP, "shop"))
    cluster.step(CREATE_TABLE, [(SHOP, 11, info(11, "t", "a"))])
    return cluster


def test_a_start_before_a_schema_change(cluster):
    """The history starts at the change, and the changes of rows before it would be lost."""
    start_ts = cluster.tso()
    assert live_schema(cluster, start_ts).read(None, None).start_ts == start_ts
    changed_ts = cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b"))])
    with pytest.raises(OptionError, match=f"start-ts.* readable from {changed_ts} on"):
        live_schema(cluster, start_ts).read(None, None)
    assert live_schema(cluster, None).read(None, None).start_ts > changed_ts


def test_a_history_that_is_continued(cluster):
    start_ts = cluster.tso()
    schema = live_schema(cluster, start_ts)
    history = schema.read(None, None)
    changed_ts = cluster.step(ADD_COLUMN, [(SHOP, 11, info(11, "t", "a", "b"))])
    assert schema.read(history, None) is history
    later = schema.read(history, changed_ts)
    assert (later.start_ts, later.end_ts >= changed_ts) == (start_ts, True)
