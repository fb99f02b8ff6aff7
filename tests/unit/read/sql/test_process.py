"""Queries in a separate process: the same rows, and enforced limits."""

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import (
    CorruptionError,
    SqlError,
    SqlMemoryError,
    SqlTimeoutError,
    TableNotFoundError,
    UnsupportedError,
)
from pyspark_theflash.read.sql.process import run_confined
from pyspark_theflash.read.sql.session import QueryLimits
from pyspark_theflash.read.sql.sql import run_sql
from tests.support.processes import children
from tests.unit.read.sql.test_sql import ENDLESS, ITEMS, Source, Tables

LIMITS = QueryLimits(memory_mb=256, threads=2)
LONG_CONSTANT = "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))"
"""Evaluated by DuckDB while it plans, for minutes, in little memory."""
CLOCK = SystemClock()


@pytest.fixture
def tables() -> Tables:
    return Tables(Item=Source(ITEMS), other=Source(ITEMS))


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = set(children(os.getpid()))
    yield
    assert set(children(os.getpid())) <= before


def confined(
    text: str, tables: Tables, parameters: Sequence[object] = (), limits: QueryLimits = LIMITS
) -> pa.Table:
    with run_confined(text, tables, parameters, limits) as result:
        return pa.Table.from_batches(result, result.schema)


def test_the_rows_are_those_of_a_query_in_this_process(tables: Tables) -> None:
    text = (
        "SELECT i.*, count(*) OVER () AS n, (SELECT count(*) FROM shop.other) AS m, ? AS d "
        "FROM shop.item i JOIN shop.other o USING (id) WHERE o.id < ? ORDER BY id"
    )
    parameters = [Decimal("1.5"), 4]
    with run_sql(text, tables, parameters, LIMITS) as result:
        expected = pa.Table.from_batches(result, result.schema)
    assert confined(text, tables, parameters).equals(expected)
    assert len(expected) == 3


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("SELEC", SqlError, "syntax error"),
        ("DROP TABLE x", UnsupportedError, "does more than read"),
        ("SELECT * FROM shop.no", TableNotFoundError, "no table shop.no"),
        ("SELECT len(repeat('x', 2000000000))", SqlMemoryError, "its limit of 256 MiB"),
        ("SELECT list(range) FROM range(100000000)", SqlMemoryError, "its limit of 256 MiB"),
    ],
)
def test_errors_keep_their_type(
    tables: Tables, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        confined(text, tables)


@pytest.mark.parametrize("text", [LONG_CONSTANT, ENDLESS])
def test_time_is_bounded(tables: Tables, text: str) -> None:
    begun_ms = CLOCK.boottime_ms()
    with pytest.raises(SqlTimeoutError):
        confined(text, tables, limits=QueryLimits(256, 2, timeout_ms=2_000))
    assert CLOCK.boottime_ms() - begun_ms < 60_000


def test_an_interrupt_ends_the_process(tables: Tables) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            confined(LONG_CONSTANT, tables)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


class Failing(Source):
    """A table whose second batch cannot be read."""

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield self._table.select(columns).to_batches(1)[0]
        raise CorruptionError("a file", 7, "damaged")


def test_an_error_of_a_table_keeps_its_type() -> None:
    with pytest.raises(CorruptionError, match="damaged"):
        confined("SELECT sum(id) FROM shop.item", Tables(item=Failing(ITEMS)))


class Mistyped(Source):
    """A table whose batches have other types than its schema."""

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({name: ["text"] for name in columns})


def test_batches_of_another_type_are_an_error_of_the_table() -> None:
    with pytest.raises(pa.ArrowInvalid, match="different schema"):
        confined("SELECT sum(id) FROM shop.item", Tables(item=Mistyped(ITEMS)))


def test_a_table_that_cannot_be_sent_does_not_block_the_query(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without free file descriptors."""
    limits = QueryLimits(256, 2, timeout_ms=60_000)
    open_table = tables.open

    def open_last(db: str, table: str) -> Any:
        monkeypatch.setattr(socket, "socketpair", refuse)
        return open_table(db, table)

    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(tables, "open", open_last)
    with pytest.raises(SqlError, match=r"cannot be sent to its process: .*Too many open files"):
        confined("SELECT sum(id) FROM shop.item", tables, limits=limits)


def test_a_process_that_is_killed_is_no_end_of_the_rows(tables: Tables) -> None:
    before = set(children(os.getpid()))
    with run_confined("SELECT * FROM range(50000000)", tables, [], LIMITS) as result:
        next(iter(result))
        (child,) = set(children(os.getpid())) - before
        os.kill(child, signal.SIGKILL)
        with pytest.raises(SqlMemoryError):
            list(result)


def test_a_result_that_is_closed_ends_the_process(tables: Tables) -> None:
    with run_confined("SELECT * FROM range(50000000)", tables, [], LIMITS) as result:
        next(iter(result))
