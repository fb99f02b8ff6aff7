"""The live schema source over the recorded answers of a real TiDB."""

import gzip
import json
from itertools import pairwise
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.owners import Past
from pyspark_theflash.tidb.schema.tidb import TidbSchemaSource
from tests.support.live_schema import RECORDING, ReplayedApi, shown_by_history


@pytest.fixture(scope="module")
def recording() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(gzip.decompress(RECORDING.read_bytes()))
    return document


@pytest.fixture(scope="module")
def histories(recording: dict[str, Any]) -> list[SchemaHistory]:
    """Return the history of each read; every read continues the previous one."""
    api = ReplayedApi(recording["reads"])
    source = TidbSchemaSource(api, SystemClock())
    read: list[SchemaHistory] = []
    for _ in recording["reads"]:
        read.append(source.read(api.next_read(), read[-1] if read else None))
    return read


def test_shows_what_tidb_showed(recording: dict[str, Any], histories: list[SchemaHistory]) -> None:
    last = histories[-1]
    moments = [t for t in recording["truth"] if last.start_ts <= t["ts"] <= last.end_ts]
    assert len(moments) > 35
    for moment in moments:
        shown = json.loads(json.dumps(shown_by_history(last, moment["ts"])))
        assert (moment["ts"], shown) == (moment["ts"], moment["tables"])


def test_each_read_continues_the_one_before(histories: list[SchemaHistory]) -> None:
    for earlier, later in pairwise(histories):
        assert earlier.extend(later) is later
        assert later.events[: len(earlier.events)] == earlier.events
        assert later.versions[: len(earlier.versions)] == earlier.versions
    assert len(histories[-1].events) - len(histories[0].events) > 80


def test_states_in_the_middle_of_ddl_are_there(histories: list[SchemaHistory]) -> None:
    """MODIFY COLUMN uses a hidden column with another id."""
    tables = [e.table for e in histories[-1].events if e.table and e.table.name == "t"]
    names = [[(c.id, c.name, c.state) for c in table.columns] for table in tables]
    assert any((5, "_Col$_b_0", 2) in columns for columns in names)
    assert any((5, "b", 5) in columns for columns in names)


def test_a_changed_column_has_the_session_that_changed_it(histories: list[SchemaHistory]) -> None:
    history = histories[-1]
    tables = [e.table for e in history.events if e.table and e.table.name == "t"]
    origin = Past(tuple(tables)).source(ColumnID(5))
    assert origin is not None
    source, _ = origin
    assert source.session is not None
    # TiDB's default.
    assert source.session.sql_mode == 1436549152
    assert source.session.from_ms <= source.session.to_ms < source.session.from_ms + 60_000
