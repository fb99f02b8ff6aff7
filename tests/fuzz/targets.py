"""Every parser of bytes from outside, with right inputs: captured ones where there are any."""

import gzip
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyspark_theflash.binlog.frame import FrameReader
from pyspark_theflash.binlog.pending import Pending
from pyspark_theflash.binlog.prewrite import parse_prewrite
from pyspark_theflash.binlog.stream import GzipStream, PlainStream
from pyspark_theflash.binlog.wire import decode_entities
from pyspark_theflash.codec.handle import decode_common_handles
from pyspark_theflash.codec.json_text import parse_json
from pyspark_theflash.codec.key import MvccKey, RawKey, decode_mvcc_key, decode_record_key
from pyspark_theflash.codec.row import ColumnSpec, RowBuffer
from pyspark_theflash.codec.row_v1 import decode_inserts_v1, decode_rows_v1, decode_updates_v1
from pyspark_theflash.codec.row_v2 import decode_rows_v2
from pyspark_theflash.codec.text import format_column
from pyspark_theflash.engine.magic.file import DataFile, encode_file, open_file
from pyspark_theflash.expression.evaluate import parse
from pyspark_theflash.options import ScanOptions
from pyspark_theflash.schema.file import read_schema_file
from pyspark_theflash.schema.model import TableInfo, parse_table_info
from pyspark_theflash.types import PhysicalTableID
from tests.fuzz.run import Target
from tests.support.golden_vectors import live_tables
from tests.support.suite import Step, read_steps
from tests.support.workloads import FIXTURES, workload

SEEDS = 200


def targets() -> Iterator[Target]:
    """All of them; each is made when its turn comes."""
    yield from _binlog()
    yield from _rows()
    yield from _keys()
    yield from _texts()
    yield from _files()


def _binlog() -> Iterator[Target]:
    steps = read_steps()
    payloads = [p for step in steps for p in step.payloads][:SEEDS]
    frames = gzip.decompress((FIXTURES / "bank" / "binlog.bin.gz").read_bytes())[:4000]
    values = [e.payload for step in steps for e in step.entities if e.payload][:SEEDS]
    yield Target("binlog frames", [frames, frames[:400]], _read_frames)
    yield Target("gzipped binlog", [gzip.compress(frames)], _read_gzip)
    yield Target("binlog message", payloads, lambda data: decode_entities(data, "fuzz", 0))
    yield Target("prewrite value", values, parse_prewrite)
    pending = [Pending(7, 8, 7, value, None).to_bytes() for value in values]
    yield Target("pending transaction", pending, Pending.from_bytes)


def _read_frames(data: bytes) -> None:
    for _ in FrameReader(PlainStream(_raw(data), "fuzz", len(data)), "fuzz"):
        pass


def _read_gzip(data: bytes) -> None:
    stream = GzipStream(PlainStream(_raw(data), "fuzz", len(data)), "fuzz")
    for _ in FrameReader(stream, "fuzz"):
        pass


def _rows() -> Iterator[Target]:
    """Rows of the table that has a column of every type."""
    steps = read_steps()
    table = _every_type(steps)
    specs = [ColumnSpec(c.id, c.name, c.type) for c in table.columns]
    found = [
        m
        for step in steps
        for entity in step.entities
        if entity.payload
        for m in parse_prewrite(entity.payload).mutations
        if m.table_id == table.id
    ]
    inserted = [row for m in found for row in m.inserted]
    updated = [row for m in found for row in m.updated]
    deleted = [row for m in found for row in m.deleted]
    # A column more than the rows have is one that a parser must be able to do without.
    yield Target("inserted row", inserted, lambda data: decode_inserts_v1(_one(data), specs, ()))
    yield Target("updated row", updated, lambda data: decode_updates_v1(_one(data), specs))
    yield Target("deleted row", deleted, lambda data: decode_rows_v1(_one(data), specs))
    yield from _stored_rows()


def _every_type(steps: list[Step]) -> TableInfo:
    infos = (info for step in reversed(steps) for info in step.tables or ())
    return parse_table_info("bl", next(i for i in infos if i["name"]["O"] == "alltypes"))


def _stored_rows() -> Iterator[Target]:
    for number, document in enumerate(live_tables()):
        values = [bytes.fromhex(value) for _, value in document["records"]]
        v2 = [value for value in values if value[:1] == b"\x80"]
        if len(document["table_info"]["cols"]) > 20 and v2:
            table = parse_table_info("live", document["table_info"])
            specs = [ColumnSpec(c.id, c.name, c.type) for c in table.columns]
            yield Target(
                f"stored row {number}", v2[:SEEDS], lambda data, s=specs: _decode_and_print(data, s)
            )


def _decode_and_print(data: bytes, specs: list[ColumnSpec]) -> None:
    rows = decode_rows_v2(_one(data), specs)
    for column, spec in zip(rows.columns, specs, strict=True):
        format_column(column.values, spec.type)


def _keys() -> Iterator[Target]:
    documents = [(t, parse_table_info("live", t["table_info"])) for t in live_tables()]
    keys = [bytes.fromhex(key) for t, _ in documents for key, _ in t["records"]]
    yield Target("record key", keys[:SEEDS], lambda data: decode_record_key(RawKey(data)))
    yield Target("mvcc key", keys[:SEEDS], lambda data: decode_mvcc_key(MvccKey(data)))
    types = {t.name: [c.type for c in t.handle_columns] for _, t in documents if t.is_common_handle}
    common = [
        (types[table.name], decode_record_key(RawKey(bytes.fromhex(key))).handle)
        for document, table in documents
        if table.is_common_handle
        for key, _ in document["records"]
    ]
    longest = max(types.values(), key=len)
    handles = [handle for of, handle in common if of == longest and isinstance(handle, bytes)]
    yield Target(
        "common handle",
        handles,
        lambda data: decode_common_handles(pa.array([data], pa.binary()), longest),
    )


def _texts() -> Iterator[Target]:
    texts = [
        b'{"a": [1, -2.5e3, "x\\u00e9", null, true], "b": {}}',
        b"18446744073709551615",
        b'"s"',
    ]
    yield Target("json text", texts, lambda data: parse_json(data.decode("utf-8", "replace")))
    expressions = [
        b"`a` + 1",
        b"concat(_utf8mb4'v', `a`)",
        b"case when `a` > 3 then 0x0f else -1 end",
    ]
    yield Target("expression", expressions, lambda data: parse(data.decode("utf-8", "replace")))
    options = [
        b"store=/x\ntable=a.b\nsnapshot_ts=5",
        b"store=/x\ntimestampAsOf=2024-01-02 03:04:05",
    ]
    yield Target("options", options, _parse_options)


def _parse_options(data: bytes) -> None:
    lines = data.decode("utf-8", "replace").split("\n")
    ScanOptions.parse(dict(line.partition("=")[::2] for line in lines))


def _files() -> Iterator[Target]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    schema = gzip.decompress(workload("bank").schema.read_bytes())
    yield Target("schema file", [schema], lambda data: _with_file(folder, data, read_schema_file))
    table = pa.table(
        {
            "_handle": pa.array(np.arange(50)),
            "_commit_ts": pa.array(np.full(50, 5, np.uint64)),
            "_start_ts": pa.array(np.full(50, 4, np.uint64)),
            "_op": pa.array(np.ones(50, np.uint8)),
            "_superseded_ts": pa.array(np.full(50, 2**64 - 1, np.uint64)),
            "_previous_file": pa.nulls(50, pa.uint64()),
            "_previous_row": pa.nulls(50, pa.uint32()),
            "c1": pa.array([f"value {n}" for n in range(50)]),
        }
    )
    encoded = encode_file(
        table, number=1, physical_id=PhysicalTableID(1), path="f.parquet", is_stable=False
    )
    yield Target(
        "data file", [bytes(encoded.data)], lambda data: _read_data_file(folder, data, encoded.info)
    )


def _read_data_file(folder: Path, data: bytes, info: DataFile) -> None:
    (folder / info.path).write_bytes(data)
    with open_file(folder, info) as file:
        file.read()


def _with_file(folder: Path, data: bytes, read: Callable[[Path], Any]) -> None:
    path = folder / "input"
    path.write_bytes(data)
    read(path)


def _one(data: bytes) -> RowBuffer:
    return RowBuffer.from_list([data])


def _raw(data: bytes) -> Any:
    return io.BytesIO(data)
