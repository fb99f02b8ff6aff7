"""The schema history of a store fed by TiKV."""

import pytest

from pyspark_theflash.base.errors import SchemaOutdatedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tikv.schema import SchemaKeeper
from tests.support.kv_table import TABLE


def history(end_ts: int, *at: int) -> SchemaHistory:
    events = [TableEvent(TimeStamp(ts), "d", TABLE.id, TABLE) for ts in (1, *at)]
    return SchemaHistory(TimeStamp(1), TimeStamp(end_ts), events, ())


class Source:
    """A history source that extends to the requested timestamp, up to an end."""

    def __init__(self, end_ts: int) -> None:
        self.end_ts = end_ts
        self.requested: list[int | None] = []

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        self.requested.append(at_least)
        if after is not None and at_least is None:
            return after
        end_ts = min(at_least or 10, self.end_ts)
        return history(end_ts, *[ts for ts in (20, 30) if ts <= end_ts])


def test_it_is_read_on_where_it_must_be():
    source = Source(100)
    keeper = SchemaKeeper(source, None)
    assert keeper.tables(TimeStamp(10)).history.end_ts == 10
    assert keeper.tables(TimeStamp(25)).history.end_ts == 25
    assert keeper.tables(TimeStamp(24)) is keeper.tables(TimeStamp(25))
    assert source.requested == [None, 25]
    with pytest.raises(SchemaOutdatedError):
        keeper.tables(TimeStamp(101))


def test_what_the_store_lacks_is_told_until_it_has_it():
    keeper = SchemaKeeper(Source(100), history(10))
    assert not keeper.change().puts
    keeper.tables(TimeStamp(25))
    first = [record.key for record in keeper.change().puts]
    assert first == ["event-00000001", "span"]
    keeper.tables(TimeStamp(35))
    # The publication failed.
    again = [record.key for record in keeper.change().puts]
    assert again == ["event-00000001", "event-00000002", "span"]
    keeper.published()
    assert not keeper.change().puts
