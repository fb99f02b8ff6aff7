"""A real TiDB changes the types of columns, in sessions of several time zones and SQL modes.

The store converts the old values, which are not in the binlog again, as that TiDB does.
"""

from pathlib import Path
from typing import Any, Final

import pytest

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.plan.snapshot import ReadSnapshot, open_snapshot
from pyspark_theflash.read.plan.wait import wait_until
from tests.support.live_writer import following
from tests.support.peer import Peer

pytestmark = [pytest.mark.peer, pytest.mark.slow]
CLOCK = SystemClock()
SESSIONS: Final = [
    ("+00:00", ""),
    ("America/New_York", "ALLOW_INVALID_DATES"),
    ("+08:00", "ALLOW_INVALID_DATES"),
    ("America/New_York", ""),
]
DATES: Final = (
    "'2020-01-02 03:04:05.678901Z'",
    "'2020-02-30 10:00:00'",
    "'2020-01-02 23:59:59.9999999+02:00'",
    "'2021-11-07 01:59:59.9999999'",
    "'2021-03-14 02:30:00'",
    "'1960-01-01'",
    "'2020-00-10'",
    "'12:13:14.5'",
    "'x'",
    "NULL",
)
NUMBERS: Final = ("20200230", "20210314023000", "19600101", "200102", "0", "7")
TIMES: Final = ("'2020-01-02 03:04:05.678901'", "'2021-11-07 01:30:00.6'", "'1970-01-02'", "NULL")
DOCUMENTS: Final = (
    *("'7'", "'-7'", "'2.5'", "'true'", "'null'", "'[1]'", "'\"12abc\"'", "'\"-5\"'", "'1e300'"),
    *("'18446744073709551615'", "'\"2020-02-30\"'", "'\"2020-01-02 03:04:05.5+01:00\"'"),
    *("CAST(CAST('2020-01-02' AS DATE) AS JSON)", "CAST(x'3132' AS JSON)", "'2020'", "NULL"),
)
CHANGES: Final = [
    ("VARCHAR(64)", "DATETIME(3)", DATES),
    ("VARCHAR(64)", "TIMESTAMP", DATES),
    ("VARCHAR(64)", "DATE", DATES),
    ("VARCHAR(64)", "TIME(6)", DATES),
    ("BIGINT", "DATETIME", NUMBERS),
    ("BIGINT", "TIMESTAMP", NUMBERS),
    ("DATETIME(6)", "DATETIME", (*TIMES, "'2021-11-07 01:59:59.6'")),
    ("DATETIME(6)", "TIMESTAMP", (*TIMES, "'1960-01-01'")),
    ("TIMESTAMP(6)", "TIMESTAMP", (*TIMES, "'2021-11-07 06:30:00.6'")),
    ("TIMESTAMP(6)", "JSON", TIMES),
    ("DATETIME(6)", "JSON", TIMES),
    ("DATE", "JSON", TIMES),
    ("TIME(3)", "JSON", ("'12:13:14.5'", "'-00:00:01'")),
    ("TIME(3)", "DATETIME", ("'12:13:14.5'", "'-00:00:01'")),
    ("BIT(9)", "JSON", ("65", "511", "0")),
    ("YEAR", "JSON", ("2020", "0")),
    ("""ENUM('1', '"a"', 'x')""", "JSON", ("1", "2", "3", "NULL")),
    ("VARCHAR(64)", "JSON", ('\'{"b": 1, "a": [2.50]}\'', "'x'", "''")),
    ("BLOB", "JSON", ("'\"é\"'", "x'22FF22'")),
    ("DECIMAL(9,3)", "JSON", ("1.500", "-7")),
    *(("JSON", new, DOCUMENTS) for new in ("INT", "BIGINT UNSIGNED", "DOUBLE", "DECIMAL(20,3)")),
    *(("JSON", new, DOCUMENTS) for new in ("YEAR", "DATE", "DATETIME(3)", "TIMESTAMP", "TIME")),
    ("JSON", "VARCHAR(99)", DOCUMENTS),
]

DEFAULTS: Final = [
    *("TINYINT UNSIGNED DEFAULT 1e10", "TINYINT UNSIGNED DEFAULT -1", "TINYINT DEFAULT '-300'"),
    *("MEDIUMINT UNSIGNED DEFAULT 20000000", "BIGINT UNSIGNED DEFAULT 1e30", "INT DEFAULT '12x'"),
    *("DECIMAL(3,1) DEFAULT 99.99", "DECIMAL(3,1) UNSIGNED DEFAULT -5", "DOUBLE DEFAULT 'x'"),
    *("DOUBLE(5,1) DEFAULT 99999", "FLOAT DEFAULT 1e300", "DOUBLE UNSIGNED DEFAULT -5"),
    *("YEAR DEFAULT 1800", "YEAR DEFAULT -1", "YEAR DEFAULT 3000", "TINYINT DEFAULT 2.5"),
]
ZEROS: Final = [
    ("DATETIME(6)", "zero", True),
    ("TIMESTAMP(3)", "stamp", True),
    ("DATETIME(6)", "other", False),
]
"""A type, the table that has it, and whether TiDB has rewritten no rows for another column."""


@pytest.mark.parametrize(("schema", "sessions"), [("tidb", SESSIONS), ("tikv", SESSIONS[1:2])])
def test_old_values_are_what_the_session_made_of_them(
    tmp_path: Path, schema: str, sessions: list[tuple[str, str]]
) -> None:
    store = tmp_path / "store"
    with following(tmp_path, store, schema) as peer:
        peer.sql("CREATE DATABASE c", "SET GLOBAL time_zone = '+00:00'")
        for number, (zone, mode) in enumerate(sessions):
            _change_types(peer, f"c.t{number}", zone, mode)
        with _now(peer, store) as snapshot:
            for number, session in enumerate(sessions):
                for place, change in enumerate(CHANGES):
                    ours, theirs = _answers(peer, snapshot, f"c.t{number}", f"c{place}")
                    assert ours == theirs, (session, change)


def test_defaults_are_what_tidb_makes_of_them(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with following(tmp_path, store) as peer:
        peer.sql("CREATE DATABASE c")
        columns = ", ".join(f"ADD COLUMN c{i} {tp}" for i, tp in enumerate(DEFAULTS))
        peer.sql(
            "SET sql_mode = ''",
            "CREATE TABLE c.t (id INT PRIMARY KEY, v INT)",
            "INSERT INTO c.t VALUES (1, 1), (2, 2)",
            f"ALTER TABLE c.t {columns}",
        )
        for tp, after, _ in ZEROS:
            peer.sql(
                "SET sql_mode = ''",
                f"CREATE TABLE c.{after} (id INT PRIMARY KEY, v INT)",
                f"INSERT INTO c.{after} VALUES (1, 1), (2, 2)",
                f"ALTER TABLE c.{after} ADD COLUMN d {tp} NOT NULL",
                f"UPDATE c.{after} SET v = 3 WHERE id = 1",
                *(["ALTER TABLE c.other MODIFY v CHAR(9)"] if after == "other" else []),
                f"ALTER TABLE c.{after} MODIFY d VARCHAR(40)",
            )
        with _now(peer, store) as snapshot:
            for place, tp in enumerate(DEFAULTS):
                ours, theirs = _answers(peer, snapshot, "c.t", f"c{place}")
                assert ours == theirs, tp
            for _, table, is_readable in ZEROS:
                if is_readable:
                    ours, theirs = _answers(peer, snapshot, f"c.{table}", "d")
                    assert ours == theirs
                    assert len({text for _, text in ours}) == 2
                else:
                    with pytest.raises(UnsupportedError, match="zero default"):
                        _answers(peer, snapshot, f"c.{table}", "d")


def _now(peer: Peer, store: Path) -> ReadSnapshot:
    ts = TimeStamp(peer.tso())
    deadline_ms = CLOCK.boottime_ms() + 120_000
    wait_until(store, ts, deadline_ms, clock=CLOCK, fs=LocalFileSystem())
    return open_snapshot(store, ts)


def _answers(
    peer: Peer, snapshot: ReadSnapshot, table: str, column: str
) -> tuple[set[Any], set[Any]]:
    """The ids and texts of a column in the store, and in TiDB."""
    plan = snapshot.plan(table, ["id", column])
    parts = [zip(*part, strict=True) for part in snapshot.texts(plan)]
    ours = {tuple(_text(v.as_py()) for v in row) for part in parts for row in part}
    rows = peer.sql("SET time_zone = '+00:00'", f"SELECT id, {column} FROM {table}")
    return ours, {tuple(row) for row in rows}


def _change_types(peer: Peer, table: str, zone: str, mode: str) -> None:
    columns = ", ".join(f"c{i} {old}" for i, (old, _, _) in enumerate(CHANGES))
    rows = [
        ", ".join([str(row), *(values[row % len(values)] for _, _, values in CHANGES)])
        for row in range(max(len(values) for _, _, values in CHANGES))
    ]
    peer.sql(
        "SET time_zone = '+00:00'",
        "SET sql_mode = 'ALLOW_INVALID_DATES'",
        f"CREATE TABLE {table} (id INT PRIMARY KEY, {columns})",
        *(f"INSERT INTO {table} VALUES ({row})" for row in rows),
        f"SET time_zone = '{zone}'",
        f"SET sql_mode = '{mode}'",
        *(f"ALTER TABLE {table} MODIFY c{i} {new}" for i, (_, new, _) in enumerate(CHANGES)),
    )


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
