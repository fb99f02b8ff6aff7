"""Records of the manifest and stored rows as Arrow data, for a writer on another machine."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import Generation
from pyspark_theflash.service.api.rows import RowStream
from pyspark_theflash.service.wire.uncompressed import open_uncompressed
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View

_SCHEMA: Final = pa.schema([("kind", pa.string()), ("key", pa.string()), ("body", pa.binary())])
_BATCHES: Final = pa.schema([("batch", pa.binary())])
_GENERATION: Final = "generation"
_BATCH_BYTES: Final = 8 << 20
_LAYER: Final = "records"
_Row = tuple[str, str, bytes | None]


def change_table(change: ManifestChange) -> pa.Table:
    """Build a table of the records that a commit puts and deletes; deleted ones have no body."""
    puts = ((record.kind, record.key, record.body) for record in change.puts)
    deletes = ((kind, key, None) for kind, key in change.deletes)
    return pa.Table.from_batches(_record_batches(chain(puts, deletes)), _SCHEMA)


def change_of(table: pa.Table) -> ManifestChange:
    """Inverse of `change_table`. Raises `CodecError`."""
    rows = list(_rows(table))
    puts = [Record(kind, key, body) for kind, key, body in rows if body is not None]
    return ManifestChange(puts, [(kind, key) for kind, key, body in rows if body is None])


def view_rows(view: View, kinds: Iterable[str]) -> RowStream:
    """Encode the records of some kinds; the schema's metadata has their generation."""
    schema = _SCHEMA.with_metadata({_GENERATION: str(view.generation)})
    rows = ((kind, key, body) for kind in kinds for key, body in view.of_kind(kind).items())
    batches = (batch.replace_schema_metadata(schema.metadata) for batch in _record_batches(rows))
    return RowStream(schema, batches)


def view_of(table: pa.Table) -> View:
    """Inverse of `view_rows`. Raises `CodecError`."""
    generation = (table.schema.metadata or {}).get(_GENERATION.encode(), b"")
    if not generation.isdigit():
        raise CodecError(_LAYER, "the schema has no generation")
    records: dict[str, dict[str, bytes]] = {}
    for kind, key, body in _rows(table):
        records.setdefault(kind, {})[key] = body or b""
    return View(Generation(int(generation)), records)


def batch_rows(batches: Iterable[pa.RecordBatch]) -> RowStream:
    """Encode batches of different schemas as binary cells: files may have a column's older type."""
    cells = (_cell(batch) for batch in batches if batch.num_rows)
    return RowStream(_BATCHES, cells)


def batches_of(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Inverse of `batch_rows`."""
    for row in rows:
        for cell in row.column("batch"):
            source = pa.BufferReader(cell.as_buffer())
            with open_uncompressed(source.read_buffer, partial(CodecError, _LAYER)) as reader:
                yield from reader


def _cell(batch: pa.RecordBatch) -> pa.RecordBatch:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    buffer = sink.getvalue()
    offsets = pa.array([0, buffer.size], pa.int32()).buffers()[1]
    column = pa.Array.from_buffers(pa.binary(), 1, [None, offsets, buffer])
    return pa.RecordBatch.from_arrays([column], schema=_BATCHES)


def _record_batches(rows: Iterable[_Row]) -> Iterator[pa.RecordBatch]:
    gathered: list[_Row] = []
    size_bytes = 0
    for row in rows:
        gathered.append(row)
        size_bytes += len(row[2] or b"") + len(row[1])
        if size_bytes >= _BATCH_BYTES:
            yield _batch(gathered)
            gathered, size_bytes = [], 0
    if gathered:
        yield _batch(gathered)


def _batch(rows: list[_Row]) -> pa.RecordBatch:
    columns = [
        pa.array(column, field.type)
        for column, field in zip(zip(*rows, strict=True), _SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _rows(table: pa.Table) -> Iterator[_Row]:
    """Yield the records of a table. Raises `CodecError`."""
    if not table.schema.equals(_SCHEMA, check_metadata=False):
        raise CodecError(_LAYER, "the columns are not those of records")
    try:
        for batch in table.to_batches():
            batch.validate(full=True)
            kinds, keys, bodies = (column.to_pylist() for column in batch.columns)
            if None in kinds or None in keys:
                raise CodecError(_LAYER, "a record without kind or key")
            yield from zip(kinds, keys, bodies, strict=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CodecError(_LAYER, f"damaged ({type(error).__name__})") from error
