"""Statements that write: their parts, and the queries that compute their rows.

DuckDB has no interface to the parts of a writing statement, but its tokenizer gives the begin of
every token. So a statement is divided at its keywords outside of parentheses, and the expressions
between them are passed on as they are written, in a query:

    UPDATE shop.t SET a = a + 1 WHERE b > 2      SELECT t.id, (a + 1) FROM shop.t AS t WHERE (b > 2)
    DELETE FROM shop.t WHERE b > 2               SELECT t.id FROM shop.t AS t WHERE (b > 2)
    INSERT INTO shop.t (a) SELECT ...            SELECT ...

A part that is no complete expression is a syntax error of the query. Clauses that are not listed
here (RETURNING, ON CONFLICT, FROM of UPDATE, USING of DELETE, ORDER BY, LIMIT) are rejected so too.

CREATE TABLE has TiDB's types, and of the options of columns NOT NULL, NULL, DEFAULT with a constant
and PRIMARY KEY. Right sides of UPDATE see the row from before the statement, as standard SQL says;
in TiDB, they see the assignments to their left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pyspark_theflash.base.errors import MissingExtraError, SqlError, UnsupportedError
from pyspark_theflash.read.sql.lazy import quoted
from pyspark_theflash.tidb.schema.create import ColumnDefinition

_KEYWORDS: Final = ("CREATE", "DROP", "INSERT", "UPDATE", "DELETE")
_QUOTES: Final = {'"': '"', "`": "`"}


@dataclass(frozen=True, slots=True)
class CreateTable:
    """CREATE TABLE [IF NOT EXISTS] db.name (columns, PRIMARY KEY (...))."""

    db: str
    name: str
    columns: tuple[ColumnDefinition, ...]
    primary_key: tuple[str, ...]
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class DropTable:
    """DROP TABLE [IF EXISTS] db.name."""

    db: str
    name: str
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class Insert:
    """INSERT INTO db.name [(columns)] query; without columns: all, in their order."""

    db: str
    name: str
    columns: tuple[str, ...] | None
    query: str


@dataclass(frozen=True, slots=True)
class Update:
    """UPDATE db.name [AS alias] SET column = expression, ... [WHERE condition]."""

    db: str
    name: str
    alias: str
    assignments: tuple[tuple[str, str], ...]
    condition: str | None


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE FROM db.name [AS alias] [WHERE condition]."""

    db: str
    name: str
    alias: str
    condition: str | None


Statement: TypeAlias = CreateTable | DropTable | Insert | Update | Delete


def parse_statement(text: str) -> Statement | None:
    """Divide a statement into its parts; None if it is not one of these, but for example a SELECT.

    Raises:
        MissingExtraError: DuckDB is not installed.
        SqlError: It begins like one of these statements, but is none.
        UnsupportedError: It has a part that is not supported.
    """
    tokens, end = _tokenize(text)
    if not tokens or tokens[0].word not in _KEYWORDS:
        return None
    return _StatementParser(text.encode()[:end], tokens).statement()


def selection(statement: Update | Delete, source: str, keys: Sequence[str]) -> str:
    """Return the query for the keys of a statement's rows and the values that it assigns.

    Args:
        statement: The statement.
        source: The table to read, as SQL.
        keys: The names of the key's columns.
    """
    alias = quoted(statement.alias)
    columns = [f"{alias}.{quoted(name)}" for name in keys]
    if isinstance(statement, Update):
        columns += [f"({value}\n)" for _, value in statement.assignments]
    named = ", ".join(f"{column} AS v{n}" for n, column in enumerate(columns))
    where = "" if statement.condition is None else f" WHERE ({statement.condition}\n)"
    return f"SELECT {named} FROM {source} AS {alias}{where}"  # noqa: S608 (confined; see `session`)


@dataclass(frozen=True, slots=True)
class _Token:
    """A token: `word` is its text, in upper case unless it is a string or a quoted name."""

    text: str
    start: int
    depth: int

    @property
    def word(self) -> str:
        return self.text if self.text[0] in "'\"`" else self.text.upper()


def _tokenize(text: str) -> tuple[list[_Token], int]:
    """Return the tokens without a final semicolon, and the end of the last one in the text."""
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtraError("duckdb", "sql") from error
    try:
        starts = duckdb.tokenize(text)
    except duckdb.Error as error:
        raise SqlError(str(error)) from None
    raw, depth = text.encode(), 0
    last = len(raw)
    tokens: list[_Token] = []
    for (start, kind), end in zip(starts, [*(at for at, _ in starts), last][1:], strict=True):
        part = raw[start:end].decode().strip()
        if not part or kind.name == "comment":
            continue
        depth -= part in (")", "]", "}")
        tokens.append(_Token(part, start, depth))
        depth += part in ("(", "[", "{")
    while tokens and tokens[-1].text == ";":
        last = tokens.pop().start
    return tokens, last


class _StatementParser:
    """A position in the tokens of a statement."""

    def __init__(self, raw: bytes, tokens: Sequence[_Token]) -> None:
        self._raw, self._tokens, self._at = raw, tokens, 0

    def statement(self) -> Statement:
        parse: dict[str, Callable[[], Statement]] = {
            "CREATE": self._create,
            "DROP": self._drop,
            "INSERT": self._insert,
            "UPDATE": self._update,
            "DELETE": self._delete,
        }
        if any(token.text == ";" for token in self._tokens):
            raise SqlError("expected one statement")
        return parse[self._next()]()

    # -- statements

    def _create(self) -> CreateTable:
        self._expect("TABLE")
        is_optional = self._takes("IF", "NOT", "EXISTS")
        db, name = self._table()
        columns: list[ColumnDefinition] = []
        key: tuple[str, ...] = ()
        self._expect("(")
        while True:
            if self._takes("PRIMARY", "KEY"):
                more = self._names()
            else:
                column, is_key = self._column()
                columns.append(column)
                more = (column.name,) if is_key else ()
            if more and key:
                raise SqlError("there are two primary keys")
            key = more or key
            if not self._takes(","):
                break
        self._expect(")")
        self._end("an option of CREATE TABLE")
        return CreateTable(db, name, tuple(columns), key, is_optional)

    def _drop(self) -> DropTable:
        self._expect("TABLE")
        is_optional = self._takes("IF", "EXISTS")
        db, name = self._table()
        self._end("an option of DROP TABLE")
        return DropTable(db, name, is_optional)

    def _insert(self) -> Insert:
        self._expect("INTO")
        db, name = self._table()
        columns = None
        if self._peek() == "(" and self._peek(1) not in ("SELECT", "WITH", "VALUES", "FROM", "("):
            columns = self._names()
        if self._peek() in ("", "DEFAULT", "BY", "AS"):
            raise SqlError("INSERT INTO a table is followed by its columns, VALUES or SELECT")
        return Insert(db, name, columns, self._slice(self._at, len(self._tokens)))

    def _update(self) -> Update:
        db, name, alias = self._target()
        self._expect("SET")
        assignments = []
        while True:
            column = self._name()
            self._expect("=")
            assignments.append((column, self._expression(",", "WHERE")))
            if not self._takes(","):
                break
        names = [column.lower() for column, _ in assignments]
        if len(set(names)) < len(names):
            raise SqlError("a column is assigned twice")
        return Update(db, name, alias, tuple(assignments), self._condition())

    def _delete(self) -> Delete:
        self._expect("FROM")
        return Delete(*self._target(), self._condition())

    # -- parts

    def _target(self) -> tuple[str, str, str]:
        db, name = self._table()
        has_alias = self._takes("AS") or self._peek() not in ("", "SET", "WHERE", "USING")
        return db, name, self._name() if has_alias else name

    def _condition(self) -> str | None:
        condition = self._expression() if self._takes("WHERE") else None
        self._end("this clause")
        return condition

    def _expression(self, *ends: str) -> str:
        """Return the text up to one of these words outside of parentheses, or to the end."""
        first, depth = self._at, self._tokens[self._at].depth if self._peek() else 0
        while self._peek() and not (self._peek() in ends and self._tokens[self._at].depth == depth):
            if self._tokens[self._at].depth < depth:
                raise SqlError("a parenthesis is closed that was not opened")
            self._at += 1
        if first == self._at:
            raise SqlError("an expression is missing")
        return self._slice(first, self._at)

    def _column(self) -> tuple[ColumnDefinition, bool]:
        """Parse a column; also return whether it is the primary key."""
        name, tp = self._name(), self._next()
        arguments: list[int | str] = []
        if self._takes("("):
            while True:
                arguments.append(self._constant())
                if not self._takes(","):
                    break
            self._expect(")")
        is_unsigned = self._takes("UNSIGNED")
        is_not_null = is_key = False
        default: int | str | None = None
        while self._peek() not in (",", ")", ""):
            if self._takes("NOT", "NULL"):
                is_not_null = True
            elif self._takes("PRIMARY", "KEY"):
                is_key = True
            elif self._takes("DEFAULT"):
                default = None if self._takes("NULL") else self._constant()
            elif not self._takes("NULL"):
                raise UnsupportedError(f"the option {self._peek()} of a column", name)
        column = ColumnDefinition(name, tp, tuple(arguments), is_unsigned, is_not_null, default)
        return column, is_key

    def _constant(self) -> int | str:
        """Parse a number or a string. Numbers that are no integers are returned as text."""
        sign = "-" if self._takes("-") else ""
        text = self._tokens[self._at].text if self._peek() else ""
        self._at += 1
        if text[:1] == "'" and len(text) > 1 and not sign:
            return text[1:-1].replace("''", "'")
        words = {"TRUE": 1, "FALSE": 0}
        if not sign and text.upper() in words:
            return words[text.upper()]
        if not text[:1].isascii() or not text.lstrip(".")[:1].isdigit():
            raise SqlError(f"{text!r} is not a constant")
        return int(sign + text) if text.isdigit() else sign + text

    def _table(self) -> tuple[str, str]:
        db = self._name()
        if not self._takes("."):
            raise SqlError(f"table {db}: the name of a table is DB.TABLE")
        return db, self._name()

    def _names(self) -> tuple[str, ...]:
        self._expect("(")
        names = [self._name()]
        while self._takes(","):
            names.append(self._name())
        self._expect(")")
        return tuple(names)

    def _name(self) -> str:
        text = self._tokens[self._at].text if self._peek() else ""
        self._at += 1
        quote = _QUOTES.get(text[:1])
        if quote and len(text) > 2:
            return text[1:-1].replace(quote * 2, quote)
        if not text.replace("_", "a").replace("$", "a").isalnum() or text[0].isdigit():
            raise SqlError(f"{text!r} is not a name")
        return text

    # -- tokens

    def _peek(self, ahead: int = 0) -> str:
        """Return a token in upper case; "" at the end."""
        at = self._at + ahead
        return self._tokens[at].word if at < len(self._tokens) else ""

    def _next(self) -> str:
        word = self._peek()
        self._at += 1
        return word

    def _takes(self, *words: str) -> bool:
        """Skip these words if they follow."""
        if any(self._peek(n) != word for n, word in enumerate(words)):
            return False
        self._at += len(words)
        return True

    def _expect(self, word: str) -> None:
        if not self._takes(word):
            raise SqlError(f"expected {word} instead of {self._peek() or 'the end'}")

    def _end(self, what: str) -> None:
        if self._peek():
            raise UnsupportedError(what, self._peek())

    def _slice(self, first: int, last: int) -> str:
        end = self._tokens[last].start if last < len(self._tokens) else None
        return self._raw[self._tokens[first].start : end].decode()
