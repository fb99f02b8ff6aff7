"""Rows are in the same partitions as in a real TiDB."""

import gzip
import json
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import NoPartitionError, UnsupportedError
from pyspark_theflash.tidb.codec.collation import sort_keys
from pyspark_theflash.tidb.codec.key import RawKey, decode_record_key
from pyspark_theflash.tidb.partitioning.row_partition import assign_partitions, partition_columns
from pyspark_theflash.tidb.schema.model import TableInfo, parse_table_info
from tests.support.golden_vectors import (
    VECTORS,
    live_tables,
    partitioned_tables,
    stored_columns,
)


def lacking(table: TableInfo) -> str | None:
    """Return the reason why the partitions of a table's rows cannot be computed."""
    if table.name == "key_ts":
        return "key of a TIMESTAMP"
    of_text = [c.type for c in table.columns if c.type.collate == "utf8mb4_general_ci"]
    try:
        for field_type in of_text:
            sort_keys(pa.array(["x"]), field_type)
    except UnsupportedError as error:
        return error.what
    return None


def place(table: TableInfo, names: list[str], rows: list[Any]) -> list[int]:
    columns = stored_columns(table, names, rows)
    needed = {c.id for c in partition_columns(table)}
    chosen = {n: v for n, v in columns.items() if n in needed}
    return assign_partitions(table, chosen, len(rows)).tolist()


@pytest.mark.parametrize(
    "captured", partitioned_tables(), ids=lambda t: t["table_info"]["name"]["O"]
)
def test_rows_of_each_partition(captured: dict[str, Any]) -> None:
    table = parse_table_info("x", captured["table_info"])
    assert table.partition is not None
    definitions = table.partition.definitions
    rows = [row for d in definitions for row in captured["rows"][d.name]]
    expected = [d.id for d in definitions for _ in captured["rows"][d.name]]
    assert len(rows) + len(captured["refused"]) == 80
    if what := lacking(table):
        with pytest.raises(UnsupportedError, match=rf"x\.{table.name}: .*{what}"):
            place(table, captured["columns"], rows)
        return
    assert place(table, captured["columns"], rows) == expected
    for row in captured["refused"]:
        with pytest.raises(NoPartitionError, match=f"1 row.* of x.{table.name} "):
            place(table, captured["columns"], [row])


def test_keys_of_a_captured_table_name_the_partition() -> None:
    captured = next(t for t in live_tables() if t["table"] == "h9")
    table = parse_table_info(captured["db"], captured["table_info"])
    keys = [decode_record_key(RawKey(bytes.fromhex(key))) for key, _ in captured["records"]]
    places = place(table, captured["select_cols"], captured["rows"])
    assert places == [key.table_id for key in keys]
    assert len(set(places)) > 1


def test_every_state_of_partitioned_tables_under_ddl() -> None:
    """All partitions of every TableInfo are supported, public or not."""
    schema = json.loads(gzip.decompress((VECTORS / "ddl_schema.json.gz").read_bytes()))
    events = [e for e in schema["initial"] + schema["changes"] if e.get("table")]
    tables = [parse_table_info(e["db"], e["table"]) for e in events]
    partitioned = [t for t in tables if t.partition is not None]
    assert {t.name for t in partitioned} == {"pr", "pl", "ph"}
    assert any(t.partition.adding for t in partitioned if t.partition)
    assert any(t.partition.dropping for t in partitioned if t.partition)
    for table in partitioned:
        assert [c.name for c in partition_columns(table)] == ["r" if table.name == "pl" else "id"]


def test_range_bounds_under_ddl() -> None:
    schema = json.loads(gzip.decompress((VECTORS / "ddl_schema.json.gz").read_bytes()))
    events = [e for e in schema["changes"] if e.get("table")]
    every = [parse_table_info(event["db"], event["table"]) for event in events]
    tables = [table for table in every if table.name == "pr" and table.partition is not None]
    assert len(tables) > 10
    for table in tables:
        assert table.partition is not None
        for definition in table.partition.definitions:
            last = str(int(definition.less_than[0]) - 1)
            names = [c.name for c in table.public_columns]
            row = [last if name == "id" else None for name in names]
            assert place(table, names, [row]) == [definition.id]
