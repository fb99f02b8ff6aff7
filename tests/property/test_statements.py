"""Random statements of SQL: after each, and at every timestamp, the rows are those of SQLite."""

from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_theflash.base.errors import ColumnValueError, DuplicateKeyError
from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.read.sql.sql import run_sql
from pyspark_theflash.service.client import statement
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.storage.engine import registry
from tests.support.sql_oracle import SqlMirror

TABLES = (
    "CREATE TABLE shop.a (id INT NOT NULL PRIMARY KEY, n INT, s VARCHAR(9) NOT NULL DEFAULT 'd')",
    "CREATE TABLE shop.b (id INT NOT NULL, n BIGINT, s VARCHAR(20) NOT NULL, PRIMARY KEY (s, id))",
    "CREATE TABLE shop.c (id INT, n BIGINT, s VARCHAR(20))",
)
NUMBERS = st.one_of(st.integers(-3, 9).map(str), st.just("NULL"))
TEXTS = st.sampled_from(["'x'", "'y'", "'é'", "''", "NULL"])
TABLE = st.sampled_from(["shop.a", "shop.b", "shop.c"])
NUMBER = st.one_of(NUMBERS, st.sampled_from(["id", "n", "n + id", "id * 2", "-n"]))
CONDITION = st.one_of(
    st.builds("{} {} {}".format, NUMBER, st.sampled_from(["=", "<", ">=", "<>"]), NUMBERS),
    st.builds("s = {}".format, TEXTS),
    st.builds("id IN (SELECT id FROM {} WHERE n IS NOT NULL)".format, TABLE),
    st.builds("NOT (n < {} OR s IS NULL)".format, NUMBERS),
)
ROW = st.builds("({}, {}, {})".format, NUMBERS, NUMBERS, TEXTS)
STATEMENT = st.one_of(
    st.builds(
        "INSERT INTO {} VALUES {}".format,
        TABLE,
        st.lists(ROW, min_size=1, max_size=4).map(", ".join),
    ),
    st.builds("INSERT INTO {} (s, id) VALUES ({}, {})".format, TABLE, TEXTS, NUMBERS),
    st.builds(
        "INSERT INTO {} SELECT id + 20, n, s FROM {} WHERE {}".format, TABLE, TABLE, CONDITION
    ),
    st.builds("UPDATE {} SET n = {} WHERE {}".format, TABLE, NUMBER, CONDITION),
    st.builds("UPDATE {} SET s = {}, n = {}".format, TABLE, TEXTS, NUMBER),
    # SQLite checks keys row by row, so keys move away from all others.
    st.builds("UPDATE {} SET id = id + 1000 WHERE id < 100 AND ({})".format, TABLE, CONDITION),
    st.builds("DELETE FROM {} WHERE {}".format, TABLE, CONDITION),
)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statement, "run_confined", run_sql)


@settings(max_examples=25)
@given(st.lists(STATEMENT, min_size=1, max_size=8))
def test_random_statements(texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        registry.create(Path(folder) / "store", registry.MAGIC, LocalFileSystem())
        with closing(SqlMirror(connect(Path(folder) / "store"))) as mirror:
            for text in (*TABLES, *texts):
                # The mirror has checked that SQLite rejects it too, and that nothing changed.
                with suppress(DuplicateKeyError, ColumnValueError):
                    mirror.execute(text)
            mirror.check_history()
