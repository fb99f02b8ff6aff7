"""Reader of base data: the table rows that existed before the first binlog.

    DIR/base.json    [{db, table, table_id, columns, file, rows, checksum, ...}]
    DIR/<file>       gzipped JSON lines (`codec.jsonl`) of texts (`codec.text`), one value a column

If a table has the hidden column `_tidb_rowid`, it is the last one in `columns`. `checksum` is the
`tidb.codec.digest` of all columns. It is computed by formatting the parsed values as text again, so
a match also proves that parsing lost nothing.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError, CorruptionError, SchemaFileError
from pyspark_theflash.base.types import TableID
from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, brief, int64, text, texts
from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.codec.jsonl import parse_jsonl
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from pyspark_theflash.tidb.schema.json_file import read_json
from pyspark_theflash.tidb.schema.model import ROWID_NAME, ROWID_TYPE, TableInfo

INDEX_NAME: Final = "base.json"
MAX_INDEX_BYTES: Final = 1 << 28
# TiDB limits a row to 120 MiB; bytes are written as hex.
MAX_LINE_BYTES: Final = 1 << 28
_BATCH_BYTES: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class BaseTable:
    """One table of a base. `columns` are in the order of the values in `file`."""

    db: str
    table: str
    table_id: TableID
    columns: tuple[str, ...]
    file: Path
    rows: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Base:
    """The tables listed in `base.json`; a table may have no rows."""

    tables: tuple[BaseTable, ...]


def read_base(folder: Path) -> Base:
    """Read `base.json` in a folder. Rows are not read.

    Raises:
        SchemaFileError: The file does not exist or is not an index of base tables.
    """
    index = folder / INDEX_NAME
    try:
        with index.open("rb") as source:
            entries = read_json(source, MAX_INDEX_BYTES, str(index))
        return Base(tuple(_base_table(folder, entry) for entry in entries))
    except OSError as error:
        raise SchemaFileError(str(index), error.strerror or "cannot be read") from error
    except SHAPE_ERRORS as error:
        reason = f"not an index of base tables: {brief(error)}"
        raise SchemaFileError(str(index), reason) from error


def read_base_rows(
    base_table: BaseTable, table_info: TableInfo, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a base table in storage form.

    A batch has at most `batch_rows` rows, and stops at 64 MiB of text. Its columns are those of
    the base, by name; `_tidb_rowid` is int64. Row count and checksum are compared after the last
    batch, so nothing may be published before the iterator is exhausted.

    Raises:
        SchemaFileError: The columns differ from the table's, or the file does not exist.
        CorruptionError: The file cannot be read or parsed, or its row count or checksum differs.
        UnsupportedError: A column has a type that TiDB does not store.
    """
    types = _column_types(base_table, table_info)
    digest = TableDigest()
    for offset, lines in _read_lines(base_table.file, batch_rows):
        with _corrupt_at(base_table.file, offset):
            batch = _parse_batch(lines, types, digest, table_info.full_name)
        yield batch
    _check(base_table, digest)


def _base_table(folder: Path, entry: Mapping[str, Any]) -> BaseTable:
    file = text(entry["file"])
    if not file or Path(file).name != file or "\0" in file:
        raise ValueError("file is not a plain name")
    return BaseTable(
        db=text(entry["db"]),
        table=text(entry["table"]),
        table_id=TableID(int64(entry["table_id"])),
        columns=texts(entry["columns"]),
        file=folder / file,
        rows=int64(entry["rows"]),
        checksum=text(entry["checksum"]),
    )


def _column_types(base_table: BaseTable, table_info: TableInfo) -> dict[str, FieldType]:
    """Return the type of each base column; every stored column of the table must be present."""
    types = {column.name: column.type for column in table_info.public_columns}
    required = {column.name for column in table_info.public_columns if not column.is_virtual}
    if table_info.has_rowid:
        types[ROWID_NAME] = ROWID_TYPE
        required.add(ROWID_NAME)
    names = set(base_table.columns)
    if len(names) < len(base_table.columns) or not required <= names <= types.keys():
        odd = sorted((required - names) | (names - types.keys())) or ["a name listed twice"]
        reason = f"columns differ from those of {table_info.full_name}: {', '.join(odd)}"
        raise SchemaFileError(str(base_table.file), reason)
    return {name: types[name] for name in base_table.columns}


@contextmanager
def _corrupt_at(file: Path, offset: int) -> Iterator[None]:
    try:
        yield
    except CodecError as error:
        raise CorruptionError(str(file), offset, error.reason) from error


def _parse_batch(
    lines: list[str], types: Mapping[str, FieldType], digest: TableDigest, table: str
) -> pa.RecordBatch:
    texts = parse_jsonl(lines)
    if len(texts) != len(types):
        raise CodecError("base rows", f"rows have {len(texts)} values, not {len(types)}")
    columns = [
        parse_column(text, field_type, f"{table}.{name}")
        for text, (name, field_type) in zip(texts, types.items(), strict=True)
    ]
    digest.update([format_column(c, t) for c, t in zip(columns, types.values(), strict=True)])
    return pa.RecordBatch.from_arrays(columns, names=list(types))


def _read_lines(file: Path, batch_rows: int) -> Iterator[tuple[int, list[str]]]:
    """Yield batches of lines, each with its offset in the uncompressed text."""
    offset = end = 0
    try:
        with gzip.open(file) as stream:
            while lines := _read_batch(stream, batch_rows):
                offset, end = end, end + sum(map(len, lines))
                yield offset, [line.decode() for line in lines]
    except FileNotFoundError:
        raise SchemaFileError(str(file), "no such file") from None
    except UnicodeDecodeError:
        raise CorruptionError(str(file), offset, "a line is not UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptionError(str(file), end, f"cannot be unpacked: {error}") from error


def _read_batch(stream: gzip.GzipFile, batch_rows: int) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    while len(lines) < batch_rows and size < _BATCH_BYTES:
        line = stream.readline(MAX_LINE_BYTES)
        if not line:
            break
        if len(line) == MAX_LINE_BYTES:
            raise EOFError(f"no line end within {MAX_LINE_BYTES} bytes")
        lines.append(line)
        size += len(line)
    return lines


def _check(base_table: BaseTable, digest: TableDigest) -> None:
    if digest.rows != base_table.rows:
        reason = f"the file has {digest.rows} rows, base.json says {base_table.rows}"
    elif digest.hexdigest() != base_table.checksum:
        reason = "the rows do not match their checksum"
    else:
        return
    raise CorruptionError(str(base_table.file), 0, reason)
