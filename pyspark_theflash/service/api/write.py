"""Rows on their way into a store: as bytes of Arrow IPC streams, and as what these say.

Bytes wait in a file without a name in the store's folder until all have come, so a caller that is
slow, or goes away, costs no memory. Arrow then reads them where they are: a length in them that is
a lie makes nothing of its size. Compressed buffers are refused, as only they could grow.
"""

import mmap
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError, OptionError
from pyspark_theflash.base.types import PhysicalTableID, TableID, TimeStamp
from pyspark_theflash.replication.incoming import IncomingRows
from pyspark_theflash.replication.ingest import Ingestion
from pyspark_theflash.service.wire.message import PublishRequest, SchemaChange, WriteRequest
from pyspark_theflash.service.wire.method import WRITE, Method
from pyspark_theflash.storage.store.manifest import file_errors
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, load
from pyspark_theflash.tidb.schema.history import TableEvent
from pyspark_theflash.tidb.schema.model import parse_table_info

WRITE_BYTES_MAX: Final = 256 << 20
PUBLICATION_BYTES_MAX: Final = 1 << 38
"""One transaction, or one table of a base, may be as large as the disk has room for."""
POSITION_CHARS_MAX: Final = 4096
LATCHES_MAX: Final = 1000
_BATCHES_MAX: Final = 1 << 16
_LAYER: Final = "rows to write"


def stream_count(request: WriteRequest | PublishRequest) -> int:
    """The number of Arrow streams that follow a request."""
    if isinstance(request, PublishRequest):
        return 1 + len(request.physical_ids)
    return len(request.tables)


class Incoming:
    """Bytes that come in pieces. A context manager; what was not read is gone with it."""

    def __init__(self, folder: Path, called: Method = WRITE) -> None:
        """Raises `StoreFullError`, or `EngineError`: the folder takes no file."""
        self._folder, self._called = folder, called
        self.size_bytes = 0
        with file_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `__exit__`)

    def add(self, data: bytes) -> None:
        """The next bytes. Raises `OptionError`: they are too many; or `StoreFullError`."""
        check_size(self.size_bytes + len(data), self._called)
        with file_errors(self._folder):
            self._file.write(data)
        self.size_bytes += len(data)

    def tables(self, count: int) -> tuple[list[pa.Table], int]:
        """So many streams, one after the other, and how many batches they have.

        Raises:
            CodecError: they are none, or more.
        """
        if not self.size_bytes:
            if count:
                raise CodecError(_LAYER, f"{count} tables, and nothing of them")
            return [], 0
        with file_errors(self._folder):
            self._file.flush()
            # The map is closed when the last array over it is gone.
            mapped = mmap.mmap(self._file.fileno(), self.size_bytes, prot=mmap.PROT_READ)
        return read_tables(pa.py_buffer(mapped), count)

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def check_size(size_bytes: int, called: Method = WRITE) -> None:
    """Raise `OptionError` if that is more than one call may have."""
    bytes_max = bytes_max_of(called)
    if size_bytes > bytes_max:
        reason = f"has more than {bytes_max} bytes of rows; write some transactions at a time"
        raise OptionError("write", reason)


def bytes_max_of(called: Method) -> int:
    """How many bytes of rows one call may have."""
    return WRITE_BYTES_MAX if called is WRITE else PUBLICATION_BYTES_MAX


def read_tables(data: pa.Buffer, count: int) -> tuple[list[pa.Table], int]:
    """So many IPC streams, one after the other, and how many batches they have.

    The tables are slices of `data`, and not looked at beyond their shape.

    Raises:
        CodecError: the bytes are not just that.
    """
    source, tables, batches = pa.BufferReader(data), [], 0
    try:
        for _ in range(count):
            schema, found = _read_stream(source)
            batches += len(found)
            tables.append(pa.Table.from_batches(found, schema=schema))
        at = source.tell()
    except (pa.ArrowException, OSError, StopIteration, *SHAPE_ERRORS, struct.error) as error:
        # Arrow's texts may hold what was sent.
        raise CodecError(_LAYER, f"no Arrow stream ({type(error).__name__})") from error
    if at != data.size:
        raise CodecError(_LAYER, "more than was announced", at)
    return tables, batches


def _read_stream(source: pa.BufferReader) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    messages = pa.ipc.MessageReader.open_stream(source)
    first = messages.read_next_message()
    if first.type != "schema":
        # Arrow takes the message's word for it, and would end the process.
        raise CodecError(_LAYER, "no schema at the beginning")
    schema = pa.ipc.read_schema(first)
    # A name that is no UTF-8 is refused by Arrow only now.
    columns = zip(schema.names, schema.types, strict=True)
    if any(pa.types.is_dictionary(tp) for _, tp in columns):
        raise CodecError(_LAYER, "dictionaries, which no column is stored as")
    batches: list[pa.RecordBatch] = []
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return schema, batches
        if message.type != "record batch" or _is_compressed(message.metadata):
            raise CodecError(_LAYER, "something else than plain batches")
        if len(batches) == _BATCHES_MAX:
            raise CodecError(_LAYER, f"more than {_BATCHES_MAX} batches")
        batches.append(pa.ipc.read_record_batch(message, schema))


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether a message of a batch says how its buffers are compressed.

    A flatbuffer: each table begins with the way back to its vtable, which has the place of each
    field, 0 for one that is not there. `Message` has its header third, `RecordBatch` has its
    compression fourth.
    """
    data = memoryview(metadata)
    message = struct.unpack_from("<I", data)[0]
    place = message + _field(data, message, 2)
    batch = place + struct.unpack_from("<I", data, place)[0]
    return _field(data, batch, 3) != 0


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table is, from that table on; 0: nowhere."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    at = 4 + 2 * number
    return struct.unpack_from("<H", data, vtable + at)[0] if at < size else 0


def ingestion(request: WriteRequest, tables: Sequence[pa.Table]) -> Ingestion:
    """What a request and its rows say.

    Raises:
        CodecError, SchemaFileError: nothing that makes sense.
        OptionError: too much of something.
    """
    if len(tables) != len(request.tables):
        raise CodecError(_LAYER, f"{len(tables)} tables of {len(request.tables)}")
    if len(request.latches) > LATCHES_MAX:
        raise OptionError("latches", f"more than {LATCHES_MAX}")
    if len(request.position or "") > POSITION_CHARS_MAX:
        raise OptionError("position", f"has more than {POSITION_CHARS_MAX} characters")
    return Ingestion(
        [(latch.id, latch.token) for latch in request.latches],
        [
            IncomingRows(
                TableID(told.table_id), PhysicalTableID(told.physical_id or told.table_id), rows
            )
            for told, rows in zip(request.tables, tables, strict=True)
        ],
        [_event(change) for change in request.schema],
        None if request.resolved_ts is None else TimeStamp(request.resolved_ts),
        request.position,
        None if request.start_ts is None else TimeStamp(request.start_ts),
    )


def _event(change: SchemaChange) -> TableEvent:
    table_id, ts = TableID(change.table_id), TimeStamp(change.ts)
    if not change.table_info:
        return TableEvent(ts, change.db, table_id, None)
    try:
        info = load(change.table_info)
    except SHAPE_ERRORS as error:
        raise CodecError("TableInfo", f"no JSON ({type(error).__name__})") from error
    table = parse_table_info(change.db, info, change.table_info)
    if table.id != table_id:
        raise CodecError("TableInfo", f"is of table {table.id}, and {table_id} is told")
    return TableEvent(ts, change.db, table_id, table)
