r"""Rows in the files of Dumpling, SQL and CSV.

    INSERT INTO `t` (`id`,`s`) VALUES        columns are named if some are generated
    (1,'it\'s',x'00ff','255',NULL),          numbers are bare, unsigned ones in some versions
    (2,'',x'',0.5,1e15);

    "id","s","b"                             names, unless --no-header; lines end with \r\n or \n
    1,"say \"a\"",\N

Backslashes escape NUL, newlines, quotes and themselves, unless --escape-backslash=false: then
quotes are doubled. Without a delimiter, the first byte of the separator is escaped. See
pingcap/tidb, dumpling/export/sql_type.go and writer_util.go.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pyspark_theflash.base.errors import CodecError, OptionError

Field = bytes | None
_MOST_ROWS: Final = 1 << 16
_NUMBER: Final = rb"-?[0-9]++(?:\.[0-9]++)?+(?:e[-+]?[0-9]++)?+"
_AMBIGUOUS: Final = re.compile(rb"[-+.0-9eEnrN]")
_UNSEPARATED: Final = re.compile(rb"[\\\r\n\0]")
_COMMENTS: Final = re.compile(
    rb"(?:/\*!40014 SET FOREIGN_KEY_CHECKS=0\*/;\n|/\*!40101 SET NAMES binary\*/;\n)*"
)
_NAME: Final = rb"`((?:[^`]|``)++)`"
_INSERT: Final = re.compile(rb"INSERT INTO " + _NAME + rb"(?: \(([^\n]*)\))? VALUES\n")
_NAMES: Final = re.compile(_NAME + rb"(?:,|\Z)")
_UNESCAPED: Final = {b"0": b"\0", b"n": b"\n", b"r": b"\r", b"Z": b"\x1a"}
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DumpFormat:
    """Options of Dumpling that its files do not show, as Dumpling's documentation names them."""

    escape_backslash: bool = True
    no_header: bool = False
    separator: bytes = b","
    delimiter: bytes = b'"'
    null_value: bytes = b"\\N"

    def check(self) -> None:
        """Raise `OptionError` if rows of this format are ambiguous."""
        separator, delimiter, null = self.separator, self.delimiter, self.null_value
        for key, text in (("csv-separator", separator), ("csv-delimiter", delimiter)):
            if _AMBIGUOUS.match(text) or _UNSEPARATED.search(text):
                reason = f"{key} begins like a number or an escape, or has a backslash"
                raise OptionError("base", reason)
        if not separator or separator[:1] == delimiter[:1]:
            raise OptionError("base", "csv-separator is empty, or begins like csv-delimiter")
        if not self.escape_backslash and len(delimiter) != 1:
            reason = "with escape-backslash=false, csv-delimiter must be one byte"
            raise OptionError("base", reason)
        is_value = re.fullmatch(_NUMBER, null) or delimiter in null or separator in null
        if null != b"\\N" and (not delimiter or is_value):
            reason = "csv-null-value looks like a value: only \\N is read"
            raise OptionError("base", reason)


@dataclass(frozen=True, slots=True)
class FileHead:
    """The first lines of a file.

    Attributes:
        end: their length, up to the first row or statement.
        lines: their number.
        statement: the first line of a statement; empty in CSV.
        table: the table's name; None in CSV.
        columns: names of the columns; None if there are none.
    """

    end: int
    lines: int = 0
    statement: bytes = b""
    table: str | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ParsedRows:
    """Consecutive rows of a file.

    Attributes:
        columns: values by column.
        end: the place after them, from the beginning of the data.
        is_inside: whether a statement continues there.
    """

    columns: Sequence[Sequence[Field]]
    count: int
    end: int
    is_inside: bool = False


class DumpText(Protocol):
    """Parser of one form of rows."""

    name: str

    def head(self, data: bytes, width: int) -> FileHead | None:
        """Parse the beginning of a file of so many columns; None if it is not one."""

    def rows(self, data: bytes, width: int, statement: bytes, *, is_inside: bool) -> ParsedRows:
        """Parse the whole rows at the beginning of the data.

        Args:
            data: Bytes of the file.
            width: The number of columns.
            statement: The first line of each statement.
            is_inside: Whether the data begins within a statement.
        """

    def is_malformed(self, data: bytes, statement: bytes, *, is_inside: bool) -> bool:
        """Return whether the data cannot begin with a row, even if more follows."""


class SqlText:
    """Parser of INSERT statements of one table."""

    name = "INSERT"

    def __init__(self, dump: DumpFormat) -> None:
        if dump.escape_backslash:
            string = rb"'(?:[^'\\]++|\\[0nrZ\\'\"])*+'"
            self._unquoted: Callable[[bytes], bytes] = _unescaped(_UNESCAPED)
        else:
            string = rb"'(?:[^']++|'')*+'"
            self._unquoted = lambda body: body.replace(b"''", b"'")
        self._field = rb"(NULL|" + string + rb"|x'(?:[0-9a-f]{2})*+'|" + _NUMBER + rb")"
        self._has_lines = dump.escape_backslash

    def head(self, data: bytes, width: int) -> FileHead | None:
        """Parse the beginning of a file; see `DumpText`."""
        start = _COMMENTS.match(data).end()  # type: ignore[union-attr]
        lines, insert = data.count(b"\n", 0, start), _INSERT.match(data, start)
        if insert is None:
            return FileHead(start, lines) if start == len(data) else None
        table, names = insert.groups()
        columns = None if names is None else _names(names)
        return FileHead(start, lines, insert[0], _name(table), columns)

    def rows(self, data: bytes, width: int, statement: bytes, *, is_inside: bool) -> ParsedRows:
        """Parse rows; see `DumpText`."""
        row = re.compile(rb"\(" + rb",".join([self._field] * width) + rb"\)([,;])\n").match
        fields: list[tuple[bytes, ...]] = []
        at = 0
        while len(fields) < _MOST_ROWS:
            start = at
            if not is_inside:
                if not data.startswith(statement, at):
                    break
                start += len(statement)
            match = row(data, start)
            if match is None:
                break
            at = match.end()
            *values, end = match.groups()
            is_inside = end == b","
            fields.append(tuple(values))
        columns = [list(map(self._value, column)) for column in zip(*fields, strict=True)]
        return ParsedRows(columns, len(fields), at, is_inside)

    def is_malformed(self, data: bytes, statement: bytes, *, is_inside: bool) -> bool:
        """Return whether no row can follow; see `DumpText`."""
        if not is_inside:
            if not statement.startswith(data[: len(statement)]):
                return True
            data = data[len(statement) :]
        # A line feed in a value is escaped, so that a line is a row.
        return self._has_lines and b"\n" in data

    def _value(self, text: bytes) -> Field:
        first = text[0]
        if first == 0x27:
            return self._unquoted(text[1:-1])
        if first == 0x78:
            return bytes.fromhex(text[2:-1].decode())
        return None if first == 0x4E else text


class CsvText:
    """Parser of CSV."""

    name = "CSV"

    def __init__(self, dump: DumpFormat) -> None:
        self._dump = dump
        delimiter, null = dump.delimiter, re.escape(dump.null_value)
        quote, first = re.escape(delimiter), re.escape((delimiter or dump.separator)[:1])
        body = rb"(?:[^" + first + rb"]++|" + first * 2 + rb")*+"
        if dump.escape_backslash:
            body = rb"(?:[^\\\r\n\0" + first + rb"]++|\\[\\0nr" + first + rb"])*+"
        if delimiter:
            self._field = rb"(" + quote + body + quote + rb"|" + _NUMBER + rb"|" + null + rb")"
        else:
            end = rb"(?=" + re.escape(dump.separator) + rb"|\r?\n)"
            self._field = rb"(" + null + end + rb"|" + body + rb")"
        self._unquoted: Callable[[bytes], bytes]
        if dump.escape_backslash:
            unescaped = {key: value for key, value in _UNESCAPED.items() if key != b"Z"}
            self._unquoted = _unescaped(unescaped)
        else:
            self._unquoted = lambda body: body.replace(delimiter * 2, delimiter)
        self._has_lines = dump.escape_backslash

    def head(self, data: bytes, width: int) -> FileHead | None:
        """Parse the header; see `DumpText`."""
        if self._dump.no_header:
            return FileHead(0)
        match = self._row(width)(data)
        names = [self._value(text) for text in match.groups()] if match else [None]
        if match is None or None in names:
            return None
        columns = tuple(_text(name or b"") for name in names)
        return FileHead(match.end(), data.count(b"\n", 0, match.end()), columns=columns)

    def rows(self, data: bytes, width: int, statement: bytes, *, is_inside: bool) -> ParsedRows:
        """Parse rows; see `DumpText`."""
        fields: list[tuple[bytes, ...]] = []
        row, at = self._row(width), 0
        while len(fields) < _MOST_ROWS and (match := row(data, at)) is not None:
            fields.append(match.groups())
            at = match.end()
        columns = [list(map(self._value, column)) for column in zip(*fields, strict=True)]
        return ParsedRows(columns, len(fields), at)

    def is_malformed(self, data: bytes, statement: bytes, *, is_inside: bool) -> bool:
        """Return whether no row can follow; see `DumpText`."""
        return self._has_lines and b"\n" in data

    def _row(self, width: int) -> Callable[..., "re.Match[bytes] | None"]:
        separator = re.escape(self._dump.separator)
        return re.compile(separator.join([self._field] * width) + rb"\r?\n").match

    def _value(self, text: bytes) -> Field:
        if text == self._dump.null_value:
            return None
        size = len(self._dump.delimiter)
        if not size:
            return self._unquoted(text)
        if not text.startswith(self._dump.delimiter):
            return text
        return self._unquoted(text[size:-size])


def _unescaped(values: Mapping[bytes, bytes]) -> Callable[[bytes], bytes]:
    def replacement(match: "re.Match[bytes]") -> bytes:
        return values.get(match[1], match[1])

    def unescaped(body: bytes) -> bytes:
        return _ESCAPE.sub(replacement, body) if b"\\" in body else body

    return unescaped


def _names(text: bytes) -> tuple[str, ...]:
    names, at = [], 0
    while at < len(text):
        match = _NAMES.match(text, at)
        if match is None:
            raise CodecError("INSERT statement", "the names of columns are not quoted", at)
        names.append(_name(match[1]))
        at = match.end()
    return tuple(names)


def _name(text: bytes) -> str:
    return _text(text.replace(b"``", b"`"))


def _text(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise CodecError("name in a dump", "is not UTF-8") from None
