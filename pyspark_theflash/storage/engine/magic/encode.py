"""Encode versions as Parquet data files (`storage.engine.magic.file`).

    strings that repeat           dictionary, lz4
    other strings                 lz4
    numbers with few values       dictionary, lz4
    other numbers                 BYTE_STREAM_SPLIT, zstd

BYTE_STREAM_SPLIT stores the first bytes of all numbers, then all second bytes, and so on. Upper
bytes rarely change from row to row, so the result is smaller than with any codec alone, and is read
in half the time of PLAIN encoding. Strings would take half the space with zstd, but 1.5 to 2 times
as long to read.

A column without NULLs is REQUIRED in Parquet, which is read in two thirds of the time. A column
absent from all rows is omitted, and so is the absence mask of a column that all rows have
(`storage.mvcc.version`). If later rows of the file do not match this choice, the rows written so
far are rewritten with all columns, as OPTIONAL.

Row groups of `STATISTICS_ROWS` and more have statistics, and columns whose values are looked up
have Bloom filters. Deltas have neither, because every scan needs their pointers.
"""

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyspark_theflash.base.errors import InternalError
from pyspark_theflash.base.types import MAX_TS, PhysicalTableID, RegionID, TimeStamp
from pyspark_theflash.storage.engine.magic.bloom import (
    BLOOM_OPTIONS,
    footer_size,
    with_checksums,
    worth_filtering,
)
from pyspark_theflash.storage.engine.magic.file import (
    NEVER_NULL,
    PREVIOUS_FILE,
    PREVIOUS_ROW,
    SYSTEM_COLUMNS,
    DataFile,
    FileKind,
    file_path,
    is_text,
    numpy_column,
)
from pyspark_theflash.storage.engine.magic.region import NO_REGION
from pyspark_theflash.storage.engine.magic.statistics import StatisticsWriter
from pyspark_theflash.storage.mvcc.version import (
    COMMIT_TS,
    HANDLE,
    OP,
    SUPERSEDED_TS,
    Op,
    absence_name,
    is_absence,
)

ROW_GROUP_ROWS: Final = 1 << 18
ROW_GROUP_BYTES: Final = 64 << 20
DELTA_GROUP_BYTES: Final = 2 << 20
"""Deltas overlap, and a merge holds a row group of each."""
SAMPLE_ROWS: Final = 4096
STATISTICS_ROWS: Final = 1 << 13
"""Row groups with fewer rows have no statistics and no filters."""
WRITE_BATCH_ROWS: Final = 1 << 14
"""Arrow's write_batch_size; with the default of 1024 a file takes 6% longer."""
NUMBERS_MAX: Final = 256
"""Maximum distinct numbers for a dictionary, so that an index takes at most one byte."""
INT64_DIGITS: Final = 18
ONE_PAGE: Final = {
    "data_page_size": 1 << 29,
    "dictionary_pagesize_limit": 1 << 29,
    "max_rows_per_page": 1 << 29,
}
"""Writer options for one page per column chunk. With several, the excess rows of a damaged page
header could replace the missing ones of another, and the row count would still be right."""


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """The bytes of a file, and its manifest record."""

    info: DataFile
    data: pa.Buffer


class FileEncoder:
    """Encoder of sorted versions with all system columns, added in pieces.

    Memory holds the rows of an incomplete row group, and the encoded Parquet of all others.
    """

    def __init__(self, kind: FileKind) -> None:
        self._kind = kind
        self._group_bytes = DELTA_GROUP_BYTES if kind is FileKind.DELTA else ROW_GROUP_BYTES
        self._written: _Written | None = None
        self._waiting: list[pa.Table] = []
        self._bounds: list[int | bytes] = []
        self._ts_ranges: list[tuple[int, int]] = []
        self._garbage_ts, self._superseded_ts = int(MAX_TS), int(MAX_TS)
        self._has_deletes, self._has_previous = False, False
        self._nullable: set[str] = set()
        self.rows, self.data_bytes = 0, 0

    def add(self, piece: pa.Table) -> None:
        """Append versions, at least one, which sort after all earlier ones."""
        handles, commit_ts = piece.column(HANDLE), numpy_column(piece, COMMIT_TS)
        deletes = numpy_column(piece, OP) == Op.DELETE
        self._bounds = [*self._bounds[:1], handles[0].as_py(), handles[-1].as_py()]
        self._ts_ranges.append((int(commit_ts.min()), int(commit_ts.max())))
        superseded_ts = int(numpy_column(piece, SUPERSEDED_TS).min())
        deleted_ts = int(commit_ts[deletes].min(initial=MAX_TS))
        self._superseded_ts = min(self._superseded_ts, superseded_ts)
        self._garbage_ts = min(self._garbage_ts, superseded_ts, deleted_ts)
        self._has_deletes |= bool(deletes.any())
        self._has_previous |= piece.column(PREVIOUS_FILE).null_count < piece.num_rows
        names = piece.column_names
        self._nullable.update(n for n in names if _has_null(piece.column(n), deletes))
        self.rows += piece.num_rows
        self.data_bytes += piece.nbytes
        self._waiting.append(piece)
        # Small row groups are slow to read, and buffering full ones takes memory.
        group_rows = _group_rows(self.rows, self.data_bytes, self._group_bytes)
        if 2 * sum(map(len, self._waiting)) >= group_rows:
            self._flush()

    def finish(
        self, *, number: int, physical_id: PhysicalTableID, region_id: RegionID = NO_REGION
    ) -> EncodedFile:
        """Return the file, which has at least one row."""
        self._flush()
        if self._written is None:
            raise InternalError("a data file without rows")
        names = self._written.names - self._nullable - set(SYSTEM_COLUMNS)
        data = self._written.finish(sorted(n for n in names if not is_absence(n)))
        data, checksum_bytes = with_checksums(data) if self._written.filtered else (data, 0)
        footer_bytes = checksum_bytes + footer_size(data[-8:].to_pybytes())
        min_commit_ts, max_commit_ts = zip(*self._ts_ranges, strict=True)
        info = DataFile(
            number=number,
            physical_id=physical_id,
            region_id=region_id,
            path=file_path(physical_id, number),
            kind=self._kind,
            rows=self.rows,
            size_bytes=data.size,
            data_bytes=self.data_bytes,
            crc=zlib.crc32(data),
            footer_bytes=footer_bytes,
            footer_crc=zlib.crc32(data[-footer_bytes:]),
            min_handle=self._bounds[0],
            max_handle=self._bounds[-1],
            min_commit_ts=TimeStamp(min(min_commit_ts)),
            max_commit_ts=TimeStamp(max(max_commit_ts)),
            garbage_ts=TimeStamp(self._garbage_ts),
            has_deletes=self._has_deletes,
            has_superseded=self._superseded_ts < MAX_TS,
            has_previous=self._has_previous,
        )
        return EncodedFile(info, data)

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting, promote_options="permissive")
        self._waiting.clear()
        needed = _needed(table)
        nulls = {name for name in needed if table.column(name).null_count}
        if self._written is None:
            chosen = table.select(needed)
            repeating, filtered = _repeating(chosen)
            has_statistics = self._kind is not FileKind.DELTA and len(table) >= STATISTICS_ROWS
            self._written = _Written(
                chosen.schema,
                nulls,
                repeating,
                self._group_bytes,
                filtered if has_statistics else (),
                StatisticsWriter(repeating) if has_statistics else None,
            )
        elif not (nulls <= self._written.nullable and self._written.holds(table, needed)):
            self._written = self._written.with_schema(table.schema)
        self._written.add(table)


class _Written:
    """A Parquet file being written to memory."""

    def __init__(
        self,
        schema: pa.Schema,
        nullable: Collection[str],
        repeating: Collection[str],
        group_bytes: int,
        filtered: Collection[str],
        statistics: StatisticsWriter | None,
    ) -> None:
        """Start a file; `nullable` and `repeating` are names of OPTIONAL and dictionary columns.

        The repetition of system columns is fixed. A row group has about `group_bytes` in memory.
        `filtered` are the names of columns with Bloom filters.
        """
        self._group_bytes, self.filtered, self._statistics = group_bytes, filtered, statistics
        self._schema = pa.schema([_stored_field(field, nullable) for field in schema])
        self.names: Final = frozenset(self._schema.names)
        self.nullable: Final = {field.name for field in self._schema if field.nullable}
        self._repeating = repeating
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink,
            self._schema,
            use_dictionary=repeating,
            **_encodings(schema, repeating),
            # Those of `statistics` take a fraction of the time.
            write_statistics=False,
            bloom_filter_options=dict.fromkeys(filtered, BLOOM_OPTIONS) or None,
            write_batch_size=WRITE_BATCH_ROWS,
            write_page_checksum=True,
            **ONE_PAGE,
            store_decimal_as_integer=True,
        )

    def add(self, table: pa.Table) -> None:
        group_rows = _group_rows(len(table), table.nbytes, self._group_bytes)
        chosen = table.select(self._schema.names).cast(self._schema)
        self._writer.write_table(chosen, row_group_size=group_rows)
        if self._statistics is not None:
            for start in range(0, len(table), group_rows):
                self._statistics.add(chosen.slice(start, group_rows))

    def holds(self, table: pa.Table, names: Collection[str]) -> bool:
        """Return whether the file has these columns of `table`, in types at least as wide."""
        own = {name: self._schema.field(name).type for name in self.names}
        types = {name: table.field(name).type for name in names}
        return all(n in own and own[n] == _wider(own[n], tp) for n, tp in types.items())

    def with_schema(self, schema: pa.Schema) -> "_Written":
        """Rewrite the rows with all columns of `schema`, as OPTIONAL and in the wider types."""
        for at, field in enumerate(schema):
            if field.name in self.names:
                tp = _wider(self._schema.field(field.name).type, field.type)
                schema = schema.set(at, field.with_type(tp))
        statistics = None if self._statistics is None else StatisticsWriter(self._repeating)
        rewritten = _Written(
            schema, schema.names, self._repeating, self._group_bytes, self.filtered, statistics
        )
        with pq.ParquetFile(self.finish(())) as file:
            for group in range(file.num_row_groups):
                rewritten.add(_completed(file.read_row_group(group), schema))
        return rewritten

    def finish(self, never_null: Collection[str]) -> pa.Buffer:
        """Close the file and return its bytes."""
        more = {} if self._statistics is None else self._statistics.encoded()
        self._writer.add_key_value_metadata({NEVER_NULL: ",".join(never_null), **more})
        self._writer.close()
        return self._sink.getvalue()


def _group_rows(rows: int, size_bytes: int, group_bytes: int) -> int:
    """Return the maximum rows of a row group, if `rows` rows take `size_bytes`."""
    return max(1, min(rows * group_bytes // max(size_bytes, 1), ROW_GROUP_ROWS))


def _has_null(column: pa.ChunkedArray, deletes: npt.NDArray[np.bool_]) -> bool:
    """Return whether a version other than a delete has NULL."""
    if not column.null_count:
        return False
    is_null = column.is_null().to_numpy()
    return bool((is_null & ~deletes).any())


def _wider(tp: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the wider of two integer types, or the type if both are the same."""
    if tp == other or not pa.types.is_integer(tp):
        return other
    return tp if tp.bit_width > other.bit_width else other


def _needed(table: pa.Table) -> list[str]:
    """Return the columns to store: no column absent from all rows, no mask that is all false."""
    omitted = set()
    for name in filter(is_absence, table.column_names):
        if not pc.any(table.column(name)).as_py():
            omitted.add(name)
        elif pc.all(table.column(name)).as_py():
            omitted |= {name, absence_name(name)}
    return [name for name in table.column_names if name not in omitted]


def _completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Add the columns of `schema` that were omitted from these rows."""
    rows, present = len(table), set(table.column_names)
    for field in schema:
        if field.name not in present and is_absence(field.name):
            is_absent = absence_name(field.name) not in present
            table = table.append_column(field, pa.repeat(pa.scalar(is_absent), rows))
        elif field.name not in present:
            table = table.append_column(field, pa.nulls(rows, field.type))
    return table


def _stored_field(field: pa.Field, nullable: Collection[str]) -> pa.Field:
    if field.name in SYSTEM_COLUMNS:
        return field.with_nullable(field.name in (PREVIOUS_FILE, PREVIOUS_ROW))
    field = field.with_nullable(field.name in nullable)
    if is_absence(field.name):
        return field.remove_metadata()
    return field.with_metadata({"PARQUET:field_id": field.name[1:]})


def _repeating(table: pa.Table) -> tuple[list[str], list[str]]:
    """Choose the columns to store as dictionaries, and those to filter, by a sample."""
    step = max(1, table.num_rows // SAMPLE_ROWS)
    candidates = [field.name for field in table.schema if _may_repeat(field)]
    if step == 1:
        return candidates, []
    rows = pa.array(np.arange(0, table.num_rows, step))
    sample = table.select(candidates).take(rows)
    counts = {name: pc.count_distinct(sample.column(name)).as_py() for name in candidates}
    most = {f.name: len(rows) // 2 if is_text(f.type) else NUMBERS_MAX for f in table.schema}
    repeating = [name for name, distinct in counts.items() if distinct <= most[name]]
    users = {name: counts[name] for name in candidates if name not in SYSTEM_COLUMNS}
    return repeating, worth_filtering(sample, users)


def _may_repeat(field: pa.Field) -> bool:
    tp = field.type
    if field.name == HANDLE or pa.types.is_floating(tp) or pa.types.is_nested(tp):
        return False
    # Wider numbers take twice as long to read from a dictionary.
    return not pa.types.is_decimal(tp) or tp.precision <= INT64_DIGITS


def _encodings(schema: pa.Schema, repeating: Collection[str]) -> Mapping[str, Mapping[str, str]]:
    """Return the Parquet writer's options of codecs and encodings by column."""
    codecs, encodings = {}, {}
    for field in schema:
        name, tp = field.name, field.type
        if pa.types.is_list(tp):
            name, tp = f"{name}.list.element", tp.value_type
        if field.name in repeating or pa.types.is_boolean(tp) or is_text(tp):
            codecs[name] = "lz4"
        else:
            codecs[name], encodings[name] = "zstd", "BYTE_STREAM_SPLIT"
    return {"compression": codecs, "column_encoding": encodings}
