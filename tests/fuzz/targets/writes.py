"""Requests of callers of the API: rows to write, orders for regions, and waiting for latches."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pyspark_theflash.base.types import PhysicalTableID, RegionID, TableID, TimeStamp
from pyspark_theflash.replication.incoming import IncomingRows, checked_rows
from pyspark_theflash.service.api.write import read_tables
from pyspark_theflash.storage.mvcc.fingerprint import row_fingerprints
from pyspark_theflash.storage.store.command import MergeOrder, SplitOrder
from pyspark_theflash.storage.store.latch.latch import (
    LatchKind,
    LatchRequest,
    LatchScope,
    LatchWaiter,
)
from pyspark_theflash.testing.stores import column, id_column, table_info
from pyspark_theflash.tidb.codec.field_type import MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from tests.fuzz.mutate import bytes_like, json_like
from tests.fuzz.run import Target
from tests.support.writes import versions

_TABLE = table_info(
    7,
    "d.t",
    [
        id_column(),
        column("a", MySQLType.VARCHAR, flen=20),
        column("b", MySQLType.BLOB, charset="binary"),
        column("c", MySQLType.NEWDECIMAL, flen=20, decimal=2),
        column("d", MySQLType.DATE),
        column("e", MySQLType.VECTOR),
    ],
)


def rows_to_write(_: Path) -> Target:
    """An IPC stream, up to the versions that an engine would get."""
    history = SchemaHistory(
        TimeStamp(1), TimeStamp(900), [TableEvent(TimeStamp(1), "d", TableID(7), _TABLE)], ()
    )
    values: list[Any] = ["text", b"bytes", None, None, [1.0, 2.5]]
    seeds = []
    for count in (1, 3, 20):
        rows = [(n, 150 + n, 140 + n, [n, *values] if n % 3 else None) for n in range(1, count + 1)]
        seeds.append(_stream(versions(_TABLE, rows)))

    def parse(data: bytes) -> None:
        (table,), _ = read_tables(pa.py_buffer(data), 1)
        incoming = IncomingRows(TableID(7), PhysicalTableID(7), table)
        batch = checked_rows(incoming, history).batch
        row_fingerprints(7, dict(zip(batch.schema.names, batch.columns, strict=True)))

    return Target(seeds, bytes_like(seeds), parse)


def split_order(_: Path) -> Target:
    physical_id, region_id = PhysicalTableID(7), RegionID(3)
    orders = [SplitOrder(physical_id, region_id, at) for at in (5, -1, b"\x03\x01")]
    documents = [json.loads(order.to_text()) for order in orders]
    seeds = [order.to_text().encode() for order in orders]
    return Target(seeds, json_like(documents), lambda data: SplitOrder.from_text(_text(data)))


def merge_order(_: Path) -> Target:
    order = MergeOrder(PhysicalTableID(7), RegionID(3), RegionID(4))
    documents = [json.loads(order.to_text())]
    seeds = [order.to_text().encode()]
    return Target(seeds, json_like(documents), lambda data: MergeOrder.from_text(_text(data)))


def ticket_row(_: Path) -> Target:
    scope = LatchScope(7, 7, RegionID(3))
    wanted = LatchRequest(LatchKind.ADMIN, scope, 60_000, "mover", "user 0", mutates=True)
    body = LatchWaiter("x", 9, "a run", 99, wanted).to_body()

    def parse(data: bytes) -> None:
        ticket = LatchWaiter.from_body("x", data)
        ticket.wanted.conflicts(wanted)
        str(ticket.wanted)

    return Target([body], json_like([json.loads(body)]), parse)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
