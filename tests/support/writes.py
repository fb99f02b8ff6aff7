"""Requests of a caller of the API, with row versions and schema changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pyspark_theflash.service.client.theflash import TheFlash
from pyspark_theflash.service.wire.message import (
    AcquireRequest,
    Latch,
    LatchRequest,
    LatchScope,
    SchemaChange,
    WriteRequest,
    WriteTable,
)
from pyspark_theflash.storage.mvcc.rows import stored_columns
from pyspark_theflash.storage.mvcc.version import Op, version_schema
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.schema.model import TableInfo

STORE = LatchScope()
Version = tuple[int, int, int, Sequence[Any] | None]
"""Handle, commit_ts, start_ts, values; None for a delete."""


def versions(table: TableInfo, rows: Sequence[Version]) -> pa.Table:
    """Versions of a table whose handle is an integer, sorted."""
    columns = [(c.id, arrow_type(c.type)) for c in stored_columns(table)]
    schema = version_schema(pa.int64(), columns)
    ordered = sorted(rows, key=lambda row: row[:2])
    empty = [None] * len(columns)
    cells = [
        (handle, commit_ts, start_ts, int(Op.DELETE if row is None else Op.PUT), *(row or empty))
        for handle, commit_ts, start_ts, row in ordered
    ]
    arrays = [pa.array([row[n] for row in cells], field.type) for n, field in enumerate(schema)]
    return pa.Table.from_arrays(arrays, schema=schema)


def schema_change(table: TableInfo, ts: int) -> SchemaChange:
    return SchemaChange(ts, table.db, table.id, table.json_text)


def latch(store: TheFlash, scope: LatchScope = STORE, **options: Any) -> Latch:
    """A write latch."""
    options = {"name": "loader", "ttl_ms": 60_000, **options}
    return store.acquire_latch(AcquireRequest("write", scope, **options))


def request(
    held: Latch | Sequence[Latch], tables: Sequence[TableInfo] = (), **fields: Any
) -> WriteRequest:
    """A write of rows of `tables`, under latches."""
    latches = [held] if isinstance(held, Latch) else held
    return WriteRequest(
        tuple(LatchRequest(each.id, each.token or 0) for each in latches),
        tuple(WriteTable(table.id) for table in tables),
        **fields,
    )


def write(
    store: TheFlash,
    held: Latch | Sequence[Latch],
    rows: Mapping[TableInfo, Sequence[Version]],
    **fields: Any,
) -> Any:
    """Write these versions."""
    tables = [versions(table, each) for table, each in rows.items()]
    return store.write(request(held, list(rows), **fields), tables)
