"""The rows inside the captured binlogs under `tests/fixtures`, by table and kind of change."""

import gzip
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pyspark_theflash.tidb.codec.row import ColumnSpec
from pyspark_theflash.tidb.protocol._generated.tipb.binlog_pb2 import Binlog, PrewriteValue
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo, parse_table_info

FIXTURES: Final = Path(__file__).parents[1] / "fixtures"


@dataclass(frozen=True)
class CapturedRows:
    """The changes of one table, in order of arrival."""

    table: TableInfo
    inserted: list[bytes] = field(default_factory=list)
    updated: list[bytes] = field(default_factory=list)
    deleted: list[bytes] = field(default_factory=list)

    @property
    def columns(self) -> list[ColumnSpec]:
        return column_specs(self.table.columns)

    @property
    def handle(self) -> list[ColumnSpec]:
        """Empty where the handle is one integer."""
        return column_specs(self.table.handle_columns if self.table.is_common_handle else ())


def column_specs(columns: tuple[ColumnInfo, ...]) -> list[ColumnSpec]:
    return [ColumnSpec(column.id, column.name, column.type) for column in columns]


def captured_rows(workload: str) -> list[CapturedRows]:
    """All row changes of a workload's binlog, committed or not."""
    tables = _tables(workload)
    result: dict[int, CapturedRows] = {}
    for payload in _payloads(gzip.decompress((FIXTURES / workload / "binlog.bin.gz").read_bytes())):
        prewrite = PrewriteValue.FromString(Binlog.FromString(payload).prewrite_value)
        for change in prewrite.mutations:
            rows = result.setdefault(change.table_id, CapturedRows(tables[change.table_id]))
            rows.inserted.extend(change.inserted_rows)
            rows.updated.extend(change.updated_rows)
            rows.deleted.extend(change.deleted_rows)
    return list(result.values())


def _payloads(frames: bytes) -> Iterator[bytes]:
    """Frames: magic, length, payload, checksum."""
    at = 0
    while at < len(frames):
        _, size = struct.unpack_from("<IQ", frames, at)
        yield frames[at + 12 : at + 12 + size]
        at += 16 + size


def _tables(workload: str) -> dict[int, TableInfo]:
    """The last TableInfo of each table."""
    schema = json.loads(gzip.decompress((FIXTURES / workload / "schema.json.gz").read_bytes()))
    events: dict[int, TableInfo] = {}
    for event in schema["initial"] + schema["changes"]:
        if event.get("table"):
            events[event["table"]["id"]] = parse_table_info(event["db"], event["table"])
    return events
