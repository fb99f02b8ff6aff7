r"""Rows in csv with commit-ts.

    operation  table       database  commit_ts           [is-update]  columns in the table's order
    "U",       "employee", "hr",     433305438660591627, true,        101,"Smith",\N

Texts are quoted, with doubled quotes inside, numbers and NULL (\N) are not. The columns' names are
in the header, if `output-field-header` is set, or in the schema file of the table version. TiCDC's
options for delimiter, quote and null must have their defaults. See pingcap/ticdc,
pkg/sink/codec/csv/csv_message.go.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pyspark_theflash.base.errors import CodecError, CorruptionError, OptionError
from pyspark_theflash.replication.ticdc.rows import SinkRows
from pyspark_theflash.tidb.codec.document import items, load, shaped, text
from pyspark_theflash.tidb.schema.model import TableInfo

_META: Final = 4
_HEADER: Final = b"ticdc-meta$operation"
_COMMIT_TS: Final = (
    "the sink's rows have no commit_ts: set include-commit-ts=true in [sink.csv] of the "
    "changefeed's configuration"
)
_FORMAT: Final = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)


def parse_csv(data: bytes, file: str, names: Sequence[str]) -> Iterator[SinkRows]:
    """Yield the rows of a file; `names` are the columns' names in the schema file.

    Columns have positions, and may be preceded by is-update: see `named_columns`.

    Raises:
        CorruptionError: The file is not csv, or not of one table.
        OptionError: The changefeed does not write the commit_ts.
    """
    if not data:
        return
    try:
        # One block, so that a row cannot be larger than a block.
        reading = csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, autogenerate_column_names=True
        )
        read = csv.read_csv(pa.BufferReader(data), reading, _FORMAT, _types(len(names)))
        fields = [column.combine_chunks() for column in read.columns]
        if any(field.type != pa.string() for field in fields) or len(fields) <= _META:
            raise ValueError(f"a row of {len(fields)} fields")
        yield _rows(fields, names, has_header=data.startswith(_HEADER))
    except (pa.ArrowException, ValueError) as error:
        # Not chained, because Arrow's message contains values.
        reason = f"not csv of one table, {type(error).__name__}"
        raise CorruptionError(file, 0, reason) from None


@lru_cache(16)
def _types(columns: int) -> csv.ConvertOptions:
    """Return the options to read rows of so many columns as texts."""
    return csv.ConvertOptions(
        column_types={f"f{i}": pa.string() for i in range(_META + 1 + columns)},
        null_values=["\\N"],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )


def _rows(fields: Sequence[pa.Array], names: Sequence[str], *, has_header: bool) -> SinkRows:
    if has_header:
        names = [field[0].as_py() for field in fields if "$" not in (field[0].as_py() or "")]
        fields = [field.slice(1) for field in fields]
    operation, table, database, commit_ts = fields[:_META]
    is_operation = pc.is_in(operation, value_set=pa.array(["I", "U", "D"]))
    if not _all(is_operation) or len(table.unique()) > 1 or len(database.unique()) > 1:
        raise ValueError("rows of several tables, or unknown operations")
    if not _all(pc.match_substring_regex(commit_ts, "^[0-9]{15,20}$")):
        raise OptionError("source", _COMMIT_TS)
    name, owner = (each[0].as_py() if len(each) else "" for each in (table, database))
    return SinkRows(
        text(owner or ""),
        text(name or ""),
        tuple(map(text, names)),
        fields[_META:],
        np.asarray(pc.cast(commit_ts, pa.uint64())),
        np.asarray(pc.equal(operation, "D")),
        is_csv=True,
    )


def named_columns(rows: SinkRows, table: TableInfo) -> SinkRows:
    """Return the rows with one name per column: those of `table` that are stored, in order.

    Raises:
        OptionError: The commit_ts is missing.
        CodecError: The file has other columns than the schema file.
    """
    virtual = {column.name.lower() for column in table.columns if column.is_virtual}
    names = tuple(name for name in rows.names if name.lower() not in virtual)
    extra = len(rows.texts) - len(names)
    if extra == -1:
        raise OptionError("source", _COMMIT_TS)
    is_update = pc.is_in(rows.texts[0], value_set=pa.array(["true", "false"]))
    if extra not in (0, 1) or (extra == 1 and not _all(is_update)):
        reason = f"{len(rows.texts)} columns of {rows.full_name}, but {len(names)} in its schema"
        raise CodecError(f"csv file {rows.file}", reason)
    return replace(rows, names=names, texts=rows.texts[extra:])


def parse_schema(body: bytes, file: str) -> tuple[str, ...]:
    """Return the names of the columns in a schema file. Raises `CodecError`."""
    with shaped(f"schema file {file}"):
        return tuple(text(c["ColumnName"]) for c in items(load(body)["TableColumns"]))


def _all(condition: pa.Array) -> bool:
    return bool(pc.all(condition, min_count=0, skip_nulls=False).as_py())
