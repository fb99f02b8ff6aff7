"""A base that is read from a folder of Dumpling, local or in S3.

    metadata's Pos ─► start of the schema history
    files of a table, in order ─► pieces of 8 MiB ─► rows ─► pages, with the place after each

The time zone of TIMESTAMPs and some options of Dumpling are not in its files, and are in the URL:

    dump:file:///var/dump?time-zone=UTC&csv-separator=%7C

A place is (file, offset, line, whether a statement continues). At a place, the head of the file is
read again, and its names of columns.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError, OptionError, SchemaSourceError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply.base_rows import BasePage
from pyspark_theflash.replication.base.dump_folder import DumpFile, DumpFolder, dump_ts
from pyspark_theflash.replication.base.dump_text import (
    CsvText,
    DumpFormat,
    DumpText,
    FileHead,
    ParsedRows,
    SqlText,
)
from pyspark_theflash.replication.base.dump_values import (
    DIALECTS,
    check_zone,
    decode_dumped,
    decoded_bytes,
    is_bytes,
)
from pyspark_theflash.replication.storage import (
    Storage,
    StorageStream,
    one_of,
    open_files,
    time_zone,
)
from pyspark_theflash.tidb.codec.document import items, load, shaped, text, uint64
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

PIECE_BYTES: Final = 8 << 20
MOST_ROW_BYTES: Final = 256 << 20
"""Maximum size of a row; TiDB's largest is 120 MiB, of which SQL shows bytes as hex."""
_HEAD_BYTES: Final = 1 << 20
_BOOLEANS: Final = ("true", "false")
_KEYS: Final = (
    *("time-zone", "escape-backslash", "no-header", "csv-separator", "csv-delimiter"),
    *("csv-null-value", "csv-output-dialect"),
)


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """Options of Dumpling that its files do not show.

    Attributes:
        form: the form of rows.
        time_zone: time zone of TIMESTAMPs; None if it is not specified.
        dialect: Dumpling's --csv-output-dialect.
    """

    form: DumpFormat = field(default_factory=DumpFormat)
    time_zone: str | None = None
    dialect: str = ""


@dataclass(frozen=True, slots=True)
class _FilePlace:
    """A place between rows. `offset` 0 is the beginning of the file, before its head."""

    path: str
    offset: int = 0
    line: int = 1
    is_inside: bool = False

    def to_text(self) -> str:
        return json.dumps([self.path, self.offset, self.line, self.is_inside])

    @classmethod
    def from_text(cls, body: str) -> "_FilePlace":
        """Inverse of `to_text`. Raises `CodecError`."""
        with shaped("place in a dump"):
            path, offset, line, is_inside = items(load(body))
            return cls(text(path), uint64(offset), uint64(line), bool(is_inside))


def open_dump(url: str, note: Callable[[str], None] = lambda _: None) -> "DumpBase":
    """Open the dump of a URL, without its prefix; its files are read later.

    Raises:
        OptionError: The URL is invalid, or its folder or bucket does not exist.
        ServiceUnavailableError: The storage does not answer.
    """
    storage, query = open_files(url, "base", "dump", _KEYS)
    form = DumpFormat(
        one_of(query, "escape-backslash", _BOOLEANS, "base") != "false",
        one_of(query, "no-header", _BOOLEANS, "base") == "true",
        query.get("csv-separator", ",").encode(),
        query.get("csv-delimiter", '"').encode(),
        query.get("csv-null-value", "\\N").encode(),
    )
    form.check()
    dialect = one_of(query, "csv-output-dialect", DIALECTS, "base") or ""
    options = DumpOptions(form, time_zone(query, "base"), dialect)
    return DumpBase(storage, options, note, PIECE_BYTES)


class DumpBase:
    """A `RowBase` over a folder of Dumpling."""

    def __init__(
        self,
        storage: Storage,
        options: DumpOptions,
        note: Callable[[str], None] = lambda _: None,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        """`note` is called with a text about the progress."""
        self._storage, self._options, self._note = storage, options, note
        self._piece_bytes = piece_bytes

    @cached_property
    def ts(self) -> TimeStamp:
        """The timestamp of the rows. Raises the errors of `dump_ts`."""
        return dump_ts(self._storage)

    @property
    def source(self) -> str:
        """A dump is identified by its timestamp, wherever it is, and how it is read."""
        return f"dump:{self.ts} {self._options}"

    @cached_property
    def _folder(self) -> DumpFolder:
        return DumpFolder(self._storage)

    def open(self, history: SchemaHistory, tables: list[TableInfo]) -> None:
        """Check that the tables are those of the dump.

        Raises:
            OptionError: The history does not begin with the dump, or an option is missing.
            SchemaSourceError: A table has other columns than in the dump.
            UnsupportedError: The files are of a type that is not read.
        """
        if history.start_ts != self.ts:
            reason = (
                f"the dump has the rows at {self.ts}, but the schema begins at "
                f"{history.start_ts}: dump again after the last schema change"
            )
            raise OptionError("base", reason)
        for table in tables:
            self._folder.files(table.full_name)
            names = self._folder.columns(table.full_name)
            shown = [column.name for column in table.public_columns]
            if names is not None and list(names) != shown:
                reason = f"{table.full_name} has columns {shown} in the schema, but {names} here"
                raise SchemaSourceError(self._storage.url, reason[:1000])
            for column in table.public_columns:
                if column.type.tp == MySQLType.TIMESTAMP:
                    check_zone(self._options.time_zone, f"{table.full_name}.{column.name}")

    def why_missing(self, table: TableInfo) -> str | None:
        """Return why a dump does not determine the rows of a table."""
        if table.has_rowid:
            return "has no clustered primary key, so a dump does not have the ids of its rows"
        if any(column.generated_stored for column in table.columns):
            return "has a stored generated column, whose values are not in a dump"
        if table.is_public and table.full_name not in self._folder:
            return "is not in the dump"
        return None

    def pages(self, table: TableInfo, at: str | None) -> Iterator[BasePage]:
        """Yield the rows of a table from a place on, file by file.

        Raises:
            CodecError: A file does not have the form of the options, or a value is invalid.
            CorruptionError: A file is damaged, or missing.
            UnsupportedError: A value is not determined by the dump.
            ServiceUnavailableError: The storage does not answer.
        """
        place = _FilePlace.from_text(at) if at else None
        files = self._folder.files(table.full_name)
        paths = [file.path for file in files]
        if place is not None and place.path not in paths:
            raise OptionError("base", f"{place.path!r} was read before, and is not there now")
        start = paths.index(place.path) if place else 0
        for file in files[start:]:
            yield from self._file(table, file, place or _FilePlace(file.path))
            place = None

    # --

    def _file(self, table: TableInfo, file: DumpFile, place: _FilePlace) -> Iterator[BasePage]:
        name = self._folder.name(file.path)
        stream = self._folder.open(file)
        try:
            parser = _open_parser(table, file, stream, self._options.form, name)
        finally:
            stream.close()
        if parser is None:
            return
        stream = self._folder.open(file)
        try:
            if place.offset == 0:
                place = _FilePlace(file.path, parser.head.end, parser.head.lines + 1)
            stream.skip(place.offset)
            for rows, end in self._pieces(parser, stream, place, name):
                where = f"{name}, lines {place.line} to {end.line - 1}"
                batch = self._decoded(table, parser.columns, rows.columns, where)
                self._note(f"loading {table.full_name}: {file.path} to line {end.line:,}")
                yield BasePage(batch, end.to_text())
                place = end
        finally:
            stream.close()

    def _pieces(
        self, parser: "_FileParser", stream: StorageStream, place: _FilePlace, name: str
    ) -> Iterator[tuple[ParsedRows, _FilePlace]]:
        """Yield rows, and the place after them."""
        data, is_end = b"", False
        while True:
            rows = parser.rows(data, place)
            if rows.count:
                lines = data.count(b"\n", 0, rows.end)
                place = _FilePlace(
                    place.path, place.offset + rows.end, place.line + lines, rows.is_inside
                )
                yield rows, place
                data = data[rows.end :]
                continue
            if is_end and not data and not place.is_inside:
                return
            if is_end or parser.is_malformed(data, place) or len(data) > MOST_ROW_BYTES:
                what = "ends within" if is_end else "is not"
                reason = f"{what} a row of {len(parser.columns)} columns in Dumpling's form of "
                where = f"{name}, line {place.line}"
                raise CodecError(where, reason + parser.texts.name, place.offset)
            piece = stream.read(max(self._piece_bytes, len(data)))
            data, is_end = data + piece, not piece

    def _decoded(
        self,
        table: TableInfo,
        columns: Sequence[ColumnInfo],
        fields: Sequence[Sequence[bytes | None]],
        where: str,
    ) -> pa.RecordBatch:
        arrays = []
        for column, values in zip(columns, fields, strict=True):
            name = f"{table.full_name}.{column.name} in {where}"
            if is_bytes(column):
                values = decoded_bytes(values, self._options.dialect, name)
            arrays.append(decode_dumped(values, column, name, self._options.time_zone))
        return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


@dataclass(frozen=True, slots=True)
class _FileParser:
    """Parser of the rows of one file; `columns` are those of its rows."""

    texts: DumpText
    head: FileHead
    columns: Sequence[ColumnInfo]

    def rows(self, data: bytes, place: _FilePlace) -> ParsedRows:
        """Parse the whole rows at the beginning of the data."""
        statement, inside = self.head.statement, place.is_inside
        return self.texts.rows(data, len(self.columns), statement, is_inside=inside)

    def is_malformed(self, data: bytes, place: _FilePlace) -> bool:
        """Return whether more data cannot complete the first row."""
        return self.texts.is_malformed(data, self.head.statement, is_inside=place.is_inside)


def _open_parser(
    table: TableInfo, file: DumpFile, stream: StorageStream, form: DumpFormat, name: str
) -> _FileParser | None:
    """Read the head of a file; None if it is empty."""
    default = [column for column in table.public_columns if not column.generated]
    data = stream.read(_HEAD_BYTES)
    if not data:
        return None
    texts: DumpText = SqlText(form) if file.type == "sql" else CsvText(form)
    head = texts.head(data, len(default))
    if head is None:
        reason = f"does not begin as a file of {len(default)} columns that Dumpling writes"
        raise CodecError(f"{name}, line 1", reason)
    if head.table is not None and head.table.lower() != table.name.lower():
        raise CodecError(f"{name}, line {head.lines + 1}", "is not of this table")
    columns = default if head.columns is None else _named(default, head.columns, name)
    return _FileParser(texts, head, columns)


def _named(columns: Sequence[ColumnInfo], names: Sequence[str], name: str) -> Sequence[ColumnInfo]:
    """Return the columns in the order of the names."""
    by_name: Mapping[str, ColumnInfo] = {column.name.lower(): column for column in columns}
    lowered = [each.lower() for each in names]
    if sorted(lowered) != sorted(by_name):
        # The names are not in the message: they may be a row, if the file has no header.
        reason = f"names other columns than {[c.name for c in columns]}"
        raise CodecError(f"{name}, line 1", reason[:1000])
    return [by_name[each] for each in lowered]
