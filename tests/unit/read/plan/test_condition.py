"""Rows that a scan omits: those for which the condition is not true in TiDB."""

import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import ColumnNotFoundError, OptionError, UnrepresentableValueError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.read.plan.condition import Condition
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.read.present import Presentation, ZeroDates
from pyspark_theflash.storage.engine.magic.compaction import CompactionLimits
from pyspark_theflash.storage.engine.magic.engine import MagicEngine
from pyspark_theflash.storage.mvcc.project import scan_column
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, MySQLType
from pyspark_theflash.tidb.codec.time import IMPOSSIBLE_DAY

ZERO = IMPOSSIBLE_DAY
DAY = 19_782
"""2024-02-29."""
TABLE = table_info(
    7,
    "shop.item",
    [
        id_column(),
        column("name", MySQLType.VARCHAR, collate="utf8mb4_general_ci"),
        column("code", MySQLType.VARCHAR, collate="utf8mb4_bin"),
        column("price", MySQLType.NEWDECIMAL, flen=10, decimal=2),
        column("day", MySQLType.DATE),
        column("big", MySQLType.LONGLONG, flag=ColumnFlag.UNSIGNED),
        column("kind", MySQLType.ENUM, elems=["b", "a"], collate="utf8mb4_bin"),
        column("twice", MySQLType.LONGLONG, generated_expr_string="`id` * 2"),
        column("body", MySQLType.JSON),
    ],
)
ROWS: list[list[Any]] = [
    [1, "One", "a", "1.10", DAY, 2**64 - 1, 1, None, None],
    [2, "one ", "A", "2.20", ZERO, 0, 2, None, None],
    [3, None, None, None, None, None, None, None, None],
    [4, "four", "ab ", "-4.00", DAY + 1, 7, 1, None, None],
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [[*row[:3], row[3] and Decimal(row[3]), *row[4:]] for row in ROWS]
    builder = StoreBuilder(tmp_path_factory.mktemp("condition") / "store", TABLE)
    return builder.publish(300, {TABLE: [(row[0], 150, row) for row in rows]}).path


def select(store: Path, where: str, columns: list[str] | None = None) -> list[Any]:
    shown = Presentation(ZeroDates.STRING)
    with open_snapshot(store) as snapshot:
        batches = snapshot.scan("shop.item", columns or ["id"], shown, where)
        return sorted(tuple(row.values()) for batch in batches for row in batch.to_pylist())


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("id >= 2 AND id < 4", [2, 3]),
        ("id = 7", []),
        ("id IN (1, '1e9223372036854775807')", [1]),
        ("name = 'ONE'", [1, 2]),
        ("code = 'a'", [1]),
        ("code = 'ab'", [4]),
        ("code LIKE 'a%'", [1, 4]),
        ("code IN ('A', 'x', NULL)", [2]),
        ("NOT code = 'a'", [2, 4]),
        ("name IS NULL", [3]),
        ("`NAME` <=> NULL", [3]),
        ("price > 1.1", [2]),
        ("price <= -4", [4]),
        ("day < '2024-03-01'", [1, 2]),
        ("day = 0", [2]),
        # In the default SQL mode this text is not a date.
        ("day = '0000-00-00'", []),
        ("day >= date '2024-02-29'", [1, 4]),
        ("big > 9223372036854775807", [1]),
        ("big < -1", []),
        ("kind = 'a'", [2]),
        ("twice = 6 OR price = 1.10", [1, 3]),
        ("id", [1, 2, 3, 4]),
        ("0.4", [1, 2, 3, 4]),
        ("id - 1", [2, 3, 4]),
        ("price > '1e-00009223372036854775807'", [1, 2]),
        ("NULL", []),
    ],
)
def test_rows_are_those_that_tidb_would_find(store: Path, where: str, ids: list[int]) -> None:
    assert select(store, where) == [(number,) for number in ids]


def test_a_number_beyond_all_others(store: Path) -> None:
    with pytest.raises(UnrepresentableValueError, match="out of range"):
        select(store, "price < '1e9223372036854775807'")


def test_the_columns_read_need_not_be_shown(store: Path) -> None:
    assert select(store, "code = 'A' AND big = 0", ["name", "day"]) == [("one ", "0000-00-00")]


def test_a_row_that_is_left_out_is_not_refused(store: Path) -> None:
    with open_snapshot(store) as snapshot:
        rows = snapshot.scan("shop.item", ["day"], where="day > 0")
        assert sum(batch.num_rows for batch in rows) == 2
        with pytest.raises(UnrepresentableValueError):
            list(snapshot.scan("shop.item", ["day"], where="id = 2"))


def test_a_task_with_a_condition_survives_pickle(store: Path) -> None:
    with open_snapshot(store) as snapshot:
        (task,) = snapshot.plan("shop.item", where="id = 1").tasks
        assert pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("id = ", "expression text"),
        ("id = 1)", "expression text"),
        ("sleep(1)", "function SLEEP"),
        ("id IN (SELECT 1)", "not supported"),
        ("body = '{}'", "type JSON"),
    ],
)
def test_what_is_not_evaluated_is_refused_at_once(where: str, text: str) -> None:
    with pytest.raises(OptionError, match=r"option 'where'") as caught:
        Condition.parse(where, TABLE)
    assert text in str(caught.value)


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(ColumnNotFoundError, match=r"no column 'nome' in shop\.item"):
        Condition.parse("nome = 1", TABLE)


def test_regions_out_of_reach_are_not_planned(tmp_path: Path) -> None:
    item = table_info(8, "shop.many", [id_column()])
    rows = [(number, 150, [number]) for number in range(-50, 50)]
    path = StoreBuilder(tmp_path / "store", item).publish(300, {item: rows}).path
    columns = [scan_column(item, each) for each in item.public_columns]
    engine = MagicEngine(
        path, LocalFileSystem(), SystemClock(), limits=CompactionLimits(region_rows=10)
    )
    engine.compact(PhysicalTableID(8), columns, everything=True)
    engine.close()
    with open_snapshot(path) as snapshot:
        whole = len(snapshot.plan("shop.many").tasks)
        assert whole >= 10
        assert len(snapshot.plan("shop.many", where="id = -20").tasks) == 1
        assert len(snapshot.plan("shop.many", where="id > 100").tasks) <= 1
        assert len(snapshot.plan("shop.many", where="id <> 5").tasks) == whole
        for where, count in (("id = -20", 1), ("id BETWEEN -5 AND 4", 10), ("id >= 0", 50)):
            batches = snapshot.scan("shop.many", where=where)
            assert sum(batch.num_rows for batch in batches) == count
