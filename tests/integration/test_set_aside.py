"""An ambiguity about one table does not stop the others, and the table is not readable."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import TableSetAsideError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import SchemaVersion, TableID, TimeStamp
from pyspark_theflash.cli.main import main
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.replication.source.file import FileSource
from pyspark_theflash.replication.source.prewrite import INSERT
from pyspark_theflash.replication.writer import Writer
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.storage.engine import registry
from pyspark_theflash.testing.stores import column, table_info
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.key import RawKey
from pyspark_theflash.tidb.schema.history import SchemaHistory, SchemaVersionAt, TableEvent
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.support.binlog_writer import prewrite_value, transaction, write_file
from tests.support.row_oracle import encode_insert_v1, encode_row_v1

FS, CLOCK = LocalFileSystem(), SystemClock()
BIGINT = FieldType(MySQLType.LONGLONG)
START, COPYING, COPIED, ENDED, TRUNCATED, END = map(TimeStamp, (100, 1000, 1100, 1200, 1300, 2000))
KEY = [column("id", MySQLType.LONGLONG)]
OTHER = table_info(7, "shop.other", KEY, has_rowid=True)


@pytest.fixture(autouse=True)
def quick_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """All TiDB servers load a schema change at the same time."""
    monkeypatch.setattr("pyspark_theflash.replication.apply.state._LAG", 0)


def log(
    part: int, state: int = 0, adding: int = 0, dropping: int = 0, *, id: int = 100
) -> TableInfo:
    """`shop.log`, which has no key, in one partition."""

    def definitions(part: int) -> list[dict[str, object]]:
        return [{"id": part, "name": {"O": "p"}, "less_than": ["MAXVALUE"]}] if part else []

    info = json.loads(table_info(id, "shop.log", KEY, has_rowid=True).json_text)
    info["partition"] = {
        "type": 1,
        "expr": "`id`",
        "enable": True,
        "definitions": definitions(part),
        "adding_definitions": definitions(adding),
        "dropping_definitions": definitions(dropping),
        "ddl_state": state,
    }
    return parse_table_info("shop", info)


STATES = [
    (START, log(201)),
    (COPYING, log(201, 3, 211, 201)),
    (COPIED, log(211, 4, 211, 201)),
    (ENDED, log(211, 4)),
]
EMPTIED = [(TRUNCATED, None), (TimeStamp(TRUNCATED + 1), log(301, id=101))]


States = Sequence[tuple[TimeStamp, TableInfo | None]]


class Schema:
    """The schema of a cluster that has no information about rows any more."""

    def __init__(self, later: States = EMPTIED, swap: Sequence[TableEvent] = ()) -> None:
        self._later, self._swap = later, swap

    def read(self, after: SchemaHistory | None, at_least: TimeStamp | None) -> SchemaHistory:
        events = [TableEvent(ts, "shop", TableID(100), table) for ts, table in STATES]
        events += [
            TableEvent(ts, "shop", TableID(table.id if table else 100), table)
            for ts, table in self._later
        ]
        events += self._swap
        events.append(TableEvent(START, "shop", OTHER.id, OTHER))
        versions = [
            SchemaVersionAt(TimeStamp(event.ts - 1), SchemaVersion(59 + n))
            for n, event in enumerate(events[:-1])
        ]
        return SchemaHistory(START, END, events, versions)

    def has_written(self, key: RawKey, start_ts: TimeStamp) -> None:
        """Return None: unknown."""

    def had_row(self, key: RawKey, ts: TimeStamp) -> None:
        """Return None: unknown."""

    def outcome(self, primary: RawKey, start_ts: TimeStamp) -> None:
        """Return None: unknown."""


def came(commit_ts: int, version: int, table_id: int, *rows: tuple[int, int]) -> list[bytes]:
    """A transaction that inserts keys under `_tidb_rowid`s, and one into the other table.

    Another has shown before that the schema is known.
    """
    inserts = {
        table_id: [inserted(*row) for row in rows],
        OTHER.id: [inserted(commit_ts, commit_ts)],
    }
    return [
        *transaction(commit_ts - 9, commit_ts - 8, prewrite_value(64, {})),
        *transaction(commit_ts - 5, commit_ts, prewrite_value(version, inserts)),
    ]


def inserted(rowid: int, key: int) -> tuple[int, bytes]:
    return INSERT, encode_insert_v1([rowid], [BIGINT], encode_row_v1({1: key}, {1: BIGINT}))


TRANSACTIONS = {
    900: came(900, 59, 100, (1, 1)),
    1040: came(1040, 60, 100, (2, 2), (3, 2)),
    1050: came(1050, 60, 100, (4, 3)),
    1060: came(1060, 60, 100, (5, 4), (6, 4)),
    1250: came(1250, 62, 100, (7, 5)),
    1400: came(1400, 64, 101, (1, 6), (2, 7)),
}


def written(
    path: Path, transactions: Mapping[int, list[bytes]], schema: Schema | None = None
) -> Path:
    """A store, written one transaction after the other, each time by another writer."""
    store = path / "store"
    identity = registry.create(store, registry.MAGIC, FS)
    for commit_ts, messages in transactions.items():
        write_file(path / "binlog", messages)
        with closing(registry.open_engine(store, identity, FS, CLOCK)) as engine:
            writer = Writer(engine, schema or Schema(), assume_empty=["*"])
            writer.run_once(FileSource(path / "binlog"), until_ts=TimeStamp(commit_ts + 1))
    return store


def keys_at(store: Path, name: str, ts: int) -> list[int]:
    with open_snapshot(store, ts) as snapshot:
        return sorted(key for b in snapshot.scan(name) for key in b.column("id").to_pylist())


def check(store: Path, untold_ts: int, others: Iterable[int]) -> None:
    """From then on one table raises, until it is another one; the other has all rows."""
    for ts, keys in ((949, [1]), (1045, [1, 2])):
        assert keys_at(store, "shop.log", ts) == keys
    for ts in (untold_ts, COPIED, ENDED, TRUNCATED - 1):
        with pytest.raises(TableSetAsideError, match=f"shop.log is set aside from {untold_ts} "):
            keys_at(store, "shop.log", ts)
    assert keys_at(store, "shop.log", untold_ts - 1)
    assert keys_at(store, "shop.log", 1401) == [6, 7], "TRUNCATE has left it behind"
    assert keys_at(store, "shop.other", 1401) == list(others)


def test_what_a_transaction_did_while_partitions_were_reorganised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 4 is written once, which no state of the table allows."""
    store = written(tmp_path, TRANSACTIONS)
    check(store, 1050, TRANSACTIONS)
    assert main(["compact", str(store)]) == 0
    check(store, 1050, TRANSACTIONS)
    capsys.readouterr()
    assert main(["status", str(store)]) == 0
    (status,) = (t for t in capsys.readouterr().out.splitlines() if t.startswith("  shop.log is"))
    assert "shop.log is set aside from 1050 (" in status
    with connect(store) as api:
        (table,) = (t for t in api.tables(1250).tables if t.name == "shop.log")
        assert "start_ts=1045 commit_ts=1050" in table.not_loaded
        assert not any(t.not_loaded for t in api.tables(1401).tables)
    assert main(["fsck", str(store)]) == 0
    assert f"no damage: {status.strip()}\n" in capsys.readouterr().out


def test_which_rows_tidb_has_copied(tmp_path: Path) -> None:
    transactions = {ts: messages for ts, messages in TRANSACTIONS.items() if ts != 1050}
    check(written(tmp_path, transactions), COPIED, transactions)


def test_all_in_one_publication(tmp_path: Path) -> None:
    everything = [m for messages in TRANSACTIONS.values() for m in messages]
    check(written(tmp_path, {1400: everything}), 1050, TRANSACTIONS)


def test_exchange_takes_it_to_the_other_table(tmp_path: Path) -> None:
    def swap(id: int) -> TableInfo:
        return table_info(id, "shop.swap", KEY, has_rowid=True)

    exchanged = TimeStamp(1300)
    swaps = [
        TableEvent(START, "shop", TableID(400), swap(400)),
        TableEvent(exchanged, "shop", TableID(400), None),
        TableEvent(exchanged, "shop", TableID(211), swap(211)),
    ]
    transactions = {ts: messages for ts, messages in TRANSACTIONS.items() if ts < 1300}
    transactions[1280] = came(1280, 64, 400, (1, 8))
    transactions[1400] = came(1400, 66, 100, (2, 9))
    store = written(tmp_path, transactions, Schema([(exchanged, log(400))], swaps))
    assert keys_at(store, "shop.swap", 1299) == [8]
    assert keys_at(store, "shop.log", 1401) == [8, 9]
    with pytest.raises(TableSetAsideError, match=r"shop\.swap is set aside from 1050 "):
        keys_at(store, "shop.swap", 1401)
    with pytest.raises(TableSetAsideError, match=r"shop\.log is set aside from 1050 "):
        keys_at(store, "shop.log", 1299)


def test_reorganize_passes_it_on(tmp_path: Path) -> None:
    states = [(1300, log(211, 3, 221, 211)), (1310, log(221, 4, 221, 211)), (1320, log(221, 4))]
    transactions = {ts: messages for ts, messages in TRANSACTIONS.items() if ts < 1300}
    transactions[1400] = came(1400, 65, 100, (8, 9))
    store = written(
        tmp_path, transactions, Schema([(TimeStamp(ts), table) for ts, table in states])
    )
    for ts in (1305, 1315, 1325, 1401):
        with pytest.raises(
            TableSetAsideError, match=r"shop\.log is set aside from .* commit_ts=1050"
        ):
            keys_at(store, "shop.log", ts)
    assert keys_at(store, "shop.other", 1401) == list(transactions)
