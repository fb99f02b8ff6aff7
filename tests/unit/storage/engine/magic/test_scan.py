"""Scans compute values in slices of rows; limits of memory are not reported as corruption."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.budget import Budget
from pyspark_theflash.base.errors import (
    CallCancelledError,
    CorruptionError,
    TheFlashError,
    UnsupportedError,
)
from pyspark_theflash.read.plan import read
from pyspark_theflash.read.plan.read import read_task
from pyspark_theflash.read.plan.snapshot import open_snapshot
from pyspark_theflash.storage.engine.magic import encode, file_cache, scan
from pyspark_theflash.testing.stores import StoreBuilder, column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from tests.support.memory import peak_memory

NAME = "shop.item"
LONG = "x" * 65_000
ROWS = 34_000
"""With values of that length, more than 2 GiB."""
COLUMNS = [id_column(), column("s", MySQLType.VARCHAR, collate="utf8mb4_bin")]
OLD = table_info(7, NAME, COLUMNS)
ADDED = column("c", MySQLType.VARCHAR, collate="utf8mb4_bin", origin_default=LONG)
NEW = table_info(7, NAME, [*COLUMNS, ADDED])
DOUBLED = table_info(
    7,
    NAME,
    [
        *COLUMNS,
        column(
            "v",
            MySQLType.VARCHAR,
            collate="utf8mb4_bin",
            generated_expr_string="concat(`s`, `s`)",
            generated_stored=False,
        ),
    ],
)


def store_of(folder: Path, rows: int, text: str = "a", now: Any = OLD) -> Path:
    """A store of rows that were written before the columns of `now` were added."""
    store = folder / "store"
    StoreBuilder(store, OLD).publish(200, {OLD: [(n, 150, [n, text]) for n in range(rows)]})
    StoreBuilder(store, now).publish(300)
    return store


def lengths(store: Path, where: str | None = None) -> set[int]:
    sizes = set()
    with open_snapshot(store) as snapshot:
        for batch in snapshot.scan(NAME, ["c"], where=where):
            sizes |= set(pa.compute.binary_length(batch.column(0)).to_pylist())
    return sizes


@pytest.mark.parametrize(
    ("where", "expected"),
    [(None, {len(LONG)}), ("c <> 'y' AND id < 20000", {len(LONG)}), ("c = 'y'", set())],
    ids=["all", "some", "none"],
)
def test_long_defaults_of_many_rows(where: str | None, expected: set[int], tmp_path: Path) -> None:
    store = store_of(tmp_path, ROWS, now=NEW)
    with peak_memory() as peak:
        assert lengths(store, where) == expected
    assert peak.size_bytes < 512 << 20


def read_with(budget: Budget, store: Path) -> int:
    with open_snapshot(store) as snapshot:
        (task,) = snapshot.plan(NAME).tasks
        return max(batch.nbytes for batch in read_task(task, budget=budget))


@pytest.mark.parametrize(
    ("text", "now"), [("a", NEW), ("y" * 15_000, OLD), ("y" * 10_000, DOUBLED)]
)
def test_the_budget_is_that_of_the_request(
    text: str, now: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For defaults, dictionaries and generated columns."""
    monkeypatch.setattr(encode, "DELTA_GROUP_BYTES", encode.ROW_GROUP_BYTES)
    store = store_of(tmp_path, 3_000, text, now)
    with peak_memory() as peak:
        assert read_with(Budget(4 << 20), store) < 4 << 20
    assert peak.size_bytes < 12 << 20
    assert read_with(Budget(1 << 30), store) > 32 << 20


def test_generated_columns_end_with_the_request(tmp_path: Path) -> None:
    """The checks are called for slices of a generated column."""
    store = store_of(tmp_path, 2_000, "y" * 3_000, DOUBLED)
    left = 20

    def check() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise CallCancelledError("Scan")

    with pytest.raises(CallCancelledError):
        read_with(Budget(1 << 20, check), store)


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def error_of(store: Path, where: str | None = None) -> TheFlashError:
    with open_snapshot(store) as snapshot, pytest.raises(TheFlashError) as caught:
        list(snapshot.scan(NAME, where=where))
    return caught.value


@pytest.mark.parametrize("error", [pa.ArrowInvalid, pa.ArrowCapacityError, MemoryError])
@pytest.mark.parametrize("place", ["filter_rows", "combine_chunks", "batch_of"])
def test_limits_while_computing(
    error: type[Exception], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(tmp_path, 10)
    monkeypatch.setattr(scan, place, failing(error("offset overflow")))
    assert isinstance(error_of(store, "id < 5"), UnsupportedError)


def test_limits_while_converting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, 10)
    monkeypatch.setattr(read, "shown_column", failing(pa.ArrowInvalid("offset overflow")))
    assert isinstance(error_of(store), UnsupportedError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (pa.ArrowMemoryError("malloc"), UnsupportedError),
        (pa.ArrowCapacityError("too large"), UnsupportedError),
        (MemoryError(), UnsupportedError),
        (pa.ArrowInvalid("damaged"), CorruptionError),
        (OSError("damaged"), CorruptionError),
    ],
)
def test_limits_while_reading(
    error: Exception, expected: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(tmp_path, 10)
    monkeypatch.setattr(file_cache, "read_row_group", failing(error))
    assert type(error_of(store)) is expected
