"""A base over SQL, on a session that answers from lists."""

import re
from dataclasses import dataclass, field

import pytest

from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    SchemaSourceError,
    ServiceUnavailableError,
)
from pyspark_theflash.replication.base import snapshot
from pyspark_theflash.replication.base.snapshot import SnapshotBase
from pyspark_theflash.testing.stores import id_column, table_info
from pyspark_theflash.tidb.schema.history import SchemaHistory
from tests.support.manual_clock import ManualClock

TABLE = table_info(7, "d.t", [id_column()])
HISTORY = SchemaHistory(100, 100, [], [])


@dataclass
class ListSession:
    """A session of a TiDB with one table of integers. `failures` are raised before statements."""

    rows: list[int]
    failures: list[Exception | None] = field(default_factory=list)
    count: int | None = None
    table_id: int = 7
    statements: list[str] = field(default_factory=list)
    is_closed: bool = False

    def query(self, statement):
        self._begin(statement)
        if "TIDB_TABLE_ID" in statement:
            return [(b"d.T", b"%d" % self.table_id)]
        if "COUNT" in statement:
            return [(b"%d" % (len(self.rows) if self.count is None else self.count),)]
        return [(b"470674263565664258",)] if "current_ts" in statement else []

    def page(self, statement, most_bytes):
        self._begin(statement)
        last = re.search(r"> (-?\d+)", statement)
        limit = int(re.search(r"LIMIT (\d+)", statement)[1])
        rows = [n for n in self.rows if last is None or n > int(last[1])][:limit]
        values = [(b"%d" % n,) for n in rows]
        size = sum(len(row[0]) for row in values)
        return values, size, False

    def close(self):
        self.is_closed = True

    def _begin(self, statement):
        self.statements.append(statement)
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure


def read(session, at=None, clock=None):
    base = SnapshotBase(lambda: session, clock or ManualClock(), page_bytes=1000)
    base.open(HISTORY, [TABLE])
    return list(base.pages(TABLE, at))


def ids(pages):
    return [n for page in pages for n in page.rows.column(0).to_pylist()]


def test_pages_continue_after_the_last_key():
    session = ListSession(list(range(0, 4000, 3)))
    pages = read(session)
    assert len(pages) > 2
    assert ids(pages) == session.rows
    assert {page.physical_id for page in pages} == {7}
    for number, page in enumerate(pages):
        assert ids(read(session, page.at)) == ids(pages[number + 1 :])


def test_the_snapshot_is_set_again_after_every_page():
    session = ListSession([1, 2])
    read(session)
    at = next(i for i, s in enumerate(session.statements) if s.startswith("SELECT `id`"))
    assert session.statements[at + 1] == "SET tidb_snapshot = '', tidb_snapshot = 100"


def test_an_error_that_passes_is_repeated_in_a_new_session():
    failure = ServiceUnavailableError("tidb", "busy")
    session = ListSession(list(range(1000)), [*[None] * 8, failure, None, None, failure])
    assert ids(read(session)) == session.rows
    assert session.statements.count("SET tidb_snapshot = 100") == 3


def test_an_error_that_lasts_is_raised_after_ten_minutes():
    clock = ManualClock()
    session = ListSession([], [ServiceUnavailableError("tidb", "busy")] * 10_000)
    begun = clock.boottime_ms()
    with pytest.raises(ServiceUnavailableError):
        read(session, clock=clock)
    assert clock.boottime_ms() - begun == 600_000


def test_rows_that_are_not_in_the_order_of_their_keys():
    for rows in ([1, 3, 2], [1, 2, 2]):
        with pytest.raises(CorruptionError, match="do not ascend"):
            read(ListSession(rows))


def test_a_key_that_is_null():
    class NullSession(ListSession):
        def page(self, statement, most_bytes):
            return [(None,)], 0, False

    with pytest.raises(CodecError, match=r"d\.t: a key is NULL"):
        read(NullSession([1]))


def test_another_number_of_rows():
    with pytest.raises(CorruptionError, match="not by COUNT"):
        read(ListSession([1, 2, 3], count=4))


def test_a_table_of_another_cluster():
    with pytest.raises(SchemaSourceError, match=r"d\.t has id 7 in the schema, but is id 8"):
        read(ListSession([], table_id=8))


@pytest.mark.parametrize("at", ["[1]", '[7, ["1", "2"], 2]', "[7, [], 0]"])
def test_a_place_that_is_malformed(at):
    with pytest.raises(CodecError):
        read(ListSession([]), at)


def test_the_timestamp_is_held_by_a_transaction_until_the_end():
    session = ListSession([])
    base = SnapshotBase(lambda: session, ManualClock())
    assert base.now() == 470674263565664258
    assert session.statements == ["BEGIN", "SELECT @@tidb_current_ts"]
    assert not session.is_closed
    base.close()
    assert session.is_closed


def test_the_number_of_rows_of_a_page_follows_their_size(monkeypatch):
    monkeypatch.setattr(snapshot, "_FIRST_ROWS", 4)
    pages = read(ListSession(list(range(10**9, 10**9 + 500))))
    assert [page.rows.num_rows for page in pages] == [4, 16, 64, *[100] * 4, 16]
