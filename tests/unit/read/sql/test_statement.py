"""Parts of statements: texts are divided where DuckDB's tokens are, and passed on unchanged."""

import pytest

from pyspark_theflash.base.errors import SqlError, UnsupportedError
from pyspark_theflash.read.sql.statement import (
    CreateTable,
    Delete,
    DropTable,
    Insert,
    Update,
    parse_statement,
    selection,
)


@pytest.mark.parametrize("text", ["SELECT 1", "", "-- nothing", "WITH a AS (SELECT 1) FROM a"])
def test_others_are_not_divided(text: str) -> None:
    assert parse_statement(text) is None


@pytest.mark.parametrize(
    ("text", "assignments", "condition"),
    [
        ("update a.t set x = 1", [("x", "1")], None),
        (
            "UPDATE a.t SET x = 'é, WHERE', \"y z\" = f(1, (2)) WHERE x IS DISTINCT FROM 'y;'",
            [("x", "'é, WHERE'"), ("y z", "f(1, (2)) ")],
            "x IS DISTINCT FROM 'y;'",
        ),
        (
            "UPDATE a.t SET x = (SELECT max(y) FROM a.u WHERE y < 3), z = $$ , WHERE $$;",
            [("x", "(SELECT max(y) FROM a.u WHERE y < 3)"), ("z", "$$ , WHERE $$")],
            None,
        ),
        ("UPDATE a.t SET x = [1, 2][1] WHERE a /* , */ = 1 -- ;", [("x", "[1, 2][1] ")], None),
    ],
)
def test_update(text: str, assignments: list[tuple[str, str]], condition: str | None) -> None:
    parts = parse_statement(text)
    assert isinstance(parts, Update)
    assert list(parts.assignments) == assignments
    if condition is not None:
        assert parts.condition == condition


def test_others() -> None:
    assert parse_statement("DELETE FROM a.t q WHERE q.x = 1;") == Delete("a", "t", "q", "q.x = 1")
    assert parse_statement("INSERT INTO a.t (x, y) VALUES (1, 2)") == Insert(
        "a", "t", ("x", "y"), "VALUES (1, 2)"
    )
    assert parse_statement("insert into a.t (select 1)") == Insert("a", "t", None, "(select 1)")
    assert parse_statement("DROP TABLE IF EXISTS a.t") == DropTable("a", "t", True)
    created = parse_statement("CREATE TABLE a.t (x INT UNSIGNED DEFAULT -1, PRIMARY KEY (x))")
    assert isinstance(created, CreateTable)
    assert created.primary_key == ("x",)


def test_a_selection_ends_comments_and_parentheses() -> None:
    parts = parse_statement("UPDATE a.t SET x = 1 -- one\n WHERE y = 2 -- two")
    assert isinstance(parts, Update)
    assert selection(parts, "s", ["id"]) == (
        'SELECT "t"."id" AS v0, (1 -- one\n \n) AS v1 FROM s AS "t" WHERE (y = 2 -- two\n)'
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("UPDATE a.t SET x = 1) FROM (SELECT 1", SqlError),
        ("DELETE FROM a.t WHERE (x = 1)) OR ((y = 1", SqlError),
        ("UPDATE a.t SET x = 1, X = 2", SqlError),
        ("UPDATE t SET x = 1", SqlError),
        ("DELETE FROM a.t; DELETE FROM a.t", SqlError),
        ("DELETE FROM a.t WHERE", SqlError),
        ("INSERT INTO a.t DEFAULT VALUES", SqlError),
        ("INSERT OR REPLACE INTO a.t VALUES (1)", SqlError),
        ("CREATE TABLE a.t (x INT PRIMARY KEY, y INT PRIMARY KEY)", SqlError),
        ("CREATE TABLE a.t (x INT DEFAULT now())", SqlError),
        ("CREATE TABLE a.t AS SELECT 1", SqlError),
        ("CREATE VIEW a.t AS SELECT 1", SqlError),
        ("DELETE FROM a.t USING a.u WHERE 1 = 1", UnsupportedError),
        ("CREATE TABLE a.t (x INT UNIQUE)", UnsupportedError),
        ("CREATE TABLE a.t (x INT) ENGINE = x", UnsupportedError),
    ],
)
def test_rejected(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_statement(text)
