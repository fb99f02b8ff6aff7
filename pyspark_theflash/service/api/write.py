"""Rows of a write: receive Arrow IPC streams and decode them.

The bytes are collected in an unnamed file in the store's folder until all have arrived, so slow
callers and lost connections need no memory. Arrow then reads the mapped file, so a false length in
it allocates nothing. Compressed buffers are rejected, because they could expand.
"""

import mmap
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError, OptionError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.incoming import IncomingRows
from pyspark_theflash.replication.ingest import Ingestion
from pyspark_theflash.replication.statement import StatementKind, StatementWrite
from pyspark_theflash.service.wire import message
from pyspark_theflash.service.wire.message import PublishRequest, SchemaChange, WriteRequest
from pyspark_theflash.service.wire.method import WRITE, Method
from pyspark_theflash.service.wire.uncompressed import is_compressed
from pyspark_theflash.storage.store.latch.latch import LatchClaim
from pyspark_theflash.storage.store.manifest import file_errors
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, load
from pyspark_theflash.tidb.schema.history import TableEvent
from pyspark_theflash.tidb.schema.model import parse_table_info

WRITE_BYTES_MAX: Final = 256 << 20
PUBLICATION_BYTES_MAX: Final = 1 << 38
"""A transaction, or a table of a base, may be as large as the disk."""
POSITION_CHARS_MAX: Final = 4096
LATCHES_MAX: Final = 1000
_BATCHES_MAX: Final = 1 << 16
_LAYER: Final = "rows to write"


def stream_count(request: WriteRequest | PublishRequest) -> int:
    """Return the number of Arrow streams that follow a request."""
    if isinstance(request, PublishRequest):
        return 1 + len(request.physical_ids)
    return len(request.tables)


class MappedTables(Sequence[pa.Table]):
    """Tables in a mapped file. Iterating releases the memory of each when the next is wanted."""

    def __init__(self, tables: Sequence[pa.Table], mapped: mmap.mmap) -> None:
        self._tables, self._mapped = tables, mapped

    def __iter__(self) -> Iterator[pa.Table]:
        for table in self._tables:
            yield table
            # Pages that are used again are read again.
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def __len__(self) -> int:
        return len(self._tables)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        return self._tables[index]


class Incoming:
    """A temporary file for the rows of a call. A context manager; tables remain valid after it."""

    def __init__(self, folder: Path, called: Method = WRITE) -> None:
        """Raises `StoreFullError` or `EngineError`: the file cannot be created."""
        self._folder, self._called = folder, called
        self.size_bytes = 0
        with file_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `__exit__`)

    def add(self, data: bytes) -> None:
        """Append bytes. Raises `OptionError`, if there are too many, or `StoreFullError`."""
        check_size(self.size_bytes + len(data), self._called)
        with file_errors(self._folder):
            self._file.write(data)
        self.size_bytes += len(data)

    def tables(self, count: int) -> tuple[Sequence[pa.Table], int]:
        """Decode `count` streams; see `read_tables`. Raises `CodecError`."""
        if not self.size_bytes:
            if count:
                raise CodecError(_LAYER, f"{count} tables are expected, but there are no rows")
            return [], 0
        with file_errors(self._folder):
            self._file.flush()
            # The map is closed when the last array that refers to it is freed.
            mapped = mmap.mmap(self._file.fileno(), self.size_bytes, prot=mmap.PROT_READ)
        tables, batches = read_tables(pa.py_buffer(mapped), count)
        return MappedTables(tables, mapped), batches

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def check_size(size_bytes: int, called: Method = WRITE) -> None:
    """Raise `OptionError` if the size is above the limit of a call."""
    bytes_max = bytes_max_of(called)
    if size_bytes > bytes_max:
        reason = f"has more than {bytes_max} bytes of rows: write fewer transactions at a time"
        raise OptionError("write", reason)


def bytes_max_of(called: Method) -> int:
    """Return the size limit of a call's rows."""
    return WRITE_BYTES_MAX if called is WRITE else PUBLICATION_BYTES_MAX


def read_tables(data: pa.Buffer, count: int) -> tuple[list[pa.Table], int]:
    """Decode consecutive IPC streams.

    Args:
        data: The bytes, which the tables refer to.
        count: The number of streams.

    Returns:
        The tables, whose values are not validated, and their number of batches.

    Raises:
        CodecError: The bytes are not exactly these streams.
    """
    source, tables, batches = pa.BufferReader(data), [], 0
    try:
        for _ in range(count):
            schema, stream = _read_stream(source)
            batches += len(stream)
            tables.append(pa.Table.from_batches(stream, schema=schema))
        at = source.tell()
    except (pa.ArrowException, OSError, StopIteration, *SHAPE_ERRORS, struct.error) as error:
        # Arrow's texts may contain values.
        raise CodecError(_LAYER, f"not an Arrow stream ({type(error).__name__})") from error
    if at != data.size:
        raise CodecError(_LAYER, "bytes after the last stream", at)
    return tables, batches


def _read_stream(source: pa.BufferReader) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    messages = pa.ipc.MessageReader.open_stream(source)
    first = messages.read_next_message()
    if first.type != "schema":
        # Arrow does not check this and would crash.
        raise CodecError(_LAYER, "a stream does not begin with a schema")
    schema = pa.ipc.read_schema(first)
    # Raises if a name is not UTF-8.
    columns = zip(schema.names, schema.types, strict=True)
    if any(pa.types.is_dictionary(tp) for _, tp in columns):
        raise CodecError(_LAYER, "a column is a dictionary, which is not supported")
    batches: list[pa.RecordBatch] = []
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return schema, batches
        if message.type != "record batch" or is_compressed(message.metadata):
            raise CodecError(_LAYER, "a stream has messages other than uncompressed batches")
        if len(batches) == _BATCHES_MAX:
            raise CodecError(_LAYER, f"more than {_BATCHES_MAX} batches")
        batches.append(pa.ipc.read_record_batch(message, schema))


def ingestion(request: WriteRequest, tables: Sequence[pa.Table], identity: str) -> Ingestion:
    """Convert the request of a caller and its rows to the changes that they describe.

    Raises:
        CodecError, SchemaFileError: The request or a schema change is invalid.
        OptionError: The request has too many latches, or its position is too long.
    """
    if len(tables) != len(request.tables):
        raise CodecError(_LAYER, f"{len(tables)} tables instead of {len(request.tables)}")
    if len(request.latches) > LATCHES_MAX:
        raise OptionError("latches", f"more than {LATCHES_MAX}")
    latches = [LatchClaim(latch.id, latch.token, identity) for latch in request.latches]
    if request.statement is not None:
        return Ingestion(latches, statement=_statement(request, request.statement, tables))
    if len(request.position or "") > POSITION_CHARS_MAX:
        raise OptionError("position", f"has more than {POSITION_CHARS_MAX} characters")
    return Ingestion(
        latches,
        [
            IncomingRows(
                TableID(table.table_id), PhysicalTableID(table.physical_id or table.table_id), rows
            )
            for table, rows in zip(request.tables, tables, strict=True)
        ],
        [_event(change) for change in request.schema],
        None if request.resolved_ts is None else TimeStamp(request.resolved_ts),
        request.position,
        None if request.start_ts is None else TimeStamp(request.start_ts),
    )


def _statement(
    request: WriteRequest, statement: message.StatementWrite, tables: Sequence[pa.Table]
) -> StatementWrite:
    """Convert a statement's part of a request. Raises `OptionError`."""
    kinds = {kind.value: kind for kind in StatementKind}
    only = replace(request, latches=(), tables=(), schema=(), statement=None)
    if statement.kind not in kinds or only != WriteRequest() or len(tables) > 1:
        reason = f"is one of {', '.join(filter(None, kinds))} on one table, without progress"
        raise OptionError("statement", reason)
    if bool(tables) != bool(statement.kind) or any(change.ts for change in request.schema):
        raise OptionError("statement", "rows have a kind, and schema changes no timestamp")
    return StatementWrite(
        kinds[statement.kind],
        TimeStamp(statement.read_ts),
        TimeStamp(statement.least_ts),
        [(c.db, c.table_info) for c in request.schema if not c.table_id],
        [(c.db, TableID(c.table_id)) for c in request.schema if c.table_id],
        TableID(request.tables[0].table_id) if tables else None,
        tables[0] if tables else None,
    )


def _event(change: SchemaChange) -> TableEvent:
    table_id, ts = TableID(change.table_id), TimeStamp(change.ts)
    if not change.table_info:
        return TableEvent(ts, change.db, table_id, None)
    try:
        info = load(change.table_info)
    except SHAPE_ERRORS as error:
        raise CodecError("TableInfo", f"not JSON ({type(error).__name__})") from error
    table = parse_table_info(change.db, info, change.table_info)
    if table.id != table_id:
        raise CodecError("TableInfo", f"is of table {table.id} instead of {table_id}")
    return TableEvent(ts, change.db, table_id, table)
