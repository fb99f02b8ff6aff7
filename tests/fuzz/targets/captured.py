"""Shared by the targets: captured bytes and tables, read once."""

import gzip
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from pyspark_theflash.replication.source.prewrite import parse_prewrite
from pyspark_theflash.tidb.codec.row import ColumnSpec
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.support.golden_vectors import live_tables
from tests.support.suite import Step, read_steps
from tests.support.workloads import FIXTURES, workload

SEEDS = 200
MOST_BYTES = 4096
"""Larger inputs take longer without new content."""


@cache
def steps() -> Sequence[Step]:
    """The suite that has every type and kind of DDL."""
    return read_steps()


@cache
def frames() -> bytes:
    """A binlog, whole."""
    return gzip.decompress((FIXTURES / "bank" / "binlog.bin.gz").read_bytes())


@cache
def schema_document(name: str) -> Any:
    """The schema file of a workload."""
    return json.loads(gzip.decompress(workload(name).schema.read_bytes()))


@cache
def prewrite_values() -> Sequence[bytes]:
    """Changes of all kinds, small ones first."""
    values = {e.payload for step in steps() for e in step.entities if e.payload}
    return sorted((v for v in values if len(v) < MOST_BYTES), key=len)[:SEEDS]


@cache
def every_type_json() -> Any:
    """TableInfo of the table that has a column of every type."""
    infos = (info for step in reversed(steps()) for info in step.tables or ())
    return next(i for i in infos if i["name"]["O"] == "alltypes")


@cache
def every_type() -> TableInfo:
    return parse_table_info("bl", every_type_json())


def specs_of(table: TableInfo) -> list[ColumnSpec]:
    """Return the column specifications of a table for a decoder."""
    return [ColumnSpec(c.id, c.name, c.type) for c in table.columns if not c.is_virtual]


@cache
def every_type_rows(kind: str) -> Sequence[bytes]:
    """Its rows in the binlog: inserted, updated or deleted."""
    table = every_type()
    rows = [
        row
        for step in steps()
        for entity in step.entities
        if entity.payload
        for mutations in parse_prewrite(entity.payload).mutations
        if mutations.table_id == table.id
        for row in getattr(mutations, kind)
    ]
    return rows[:SEEDS]


@cache
def live_documents() -> Sequence[tuple[TableInfo, Sequence[tuple[bytes, bytes]]]]:
    """Tables with rows as they are in TiKV: (record key, value)."""
    return [
        (
            parse_table_info(t["db"], t["table_info"]),
            [(bytes.fromhex(key), bytes.fromhex(value)) for key, value in t["records"]],
        )
        for t in live_tables()
    ]
