"""Vectors and row changes written by TiDB, against its output and against the oracle."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.collation import is_bytewise
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.row import ColumnSpec, RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_inserts_v1, decode_rows_v1, decode_updates_v1
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, parse_table_info
from tests.support.captured_rows import column_specs
from tests.support.decoded import assert_decoded, types_of
from tests.support.golden_vectors import value_vectors
from tests.support.row_oracle import (
    Row,
    decode_insert_v1,
    decode_row_v1,
    decode_update_v1,
    encode_row_v2,
)

VECTOR = FieldType(MySQLType.VECTOR)


def test_vectors_in_both_formats() -> None:
    vectors = value_vectors("vector")
    cells = [bytes.fromhex(vector["hex"]) for vector in vectors]
    column = [ColumnSpec(ColumnID(1), "v", VECTOR)]
    v1 = RowBuffer.from_list([bytes.fromhex("080214") + cell for cell in cells])
    head = bytes.fromhex("80000100000001")
    v2 = RowBuffer.from_list([head + len(c).to_bytes(2, "little") + c for c in cells])
    for decoded in (decode_rows_v1(v1, column), decode_rows_v2(v2, column)):
        values = decoded.columns[0].values
        texts = pa.array([vector["text"] for vector in vectors])
        assert format_column(values, VECTOR).equals(texts)
        assert parse_column(texts, VECTOR, "v").equals(values)


def _rows(entry: dict[str, Any]) -> str:
    return f"{entry['workload']}-{entry['table_info']['name']['O']}"


@pytest.mark.parametrize("entry", value_vectors("rows"), ids=_rows)
def test_row_changes_in_both_formats(entry: dict[str, Any]) -> None:
    table = parse_table_info(entry["db"], entry["table_info"])
    stored = tuple(c for c in table.columns if not c.is_virtual)
    columns = column_specs((*stored, ROWID_COLUMN) if table.has_rowid else stored)
    key = column_specs(table.handle_columns if table.is_common_handle else ())
    types = types_of(columns)
    kinds = ("inserted", "updated", "deleted")
    inserted, updated, deleted = ([bytes.fromhex(row) for row in entry[kind]] for kind in kinds)

    key_types = [_in_key(spec.type) for spec in key] or [FieldType(MySQLType.LONGLONG)]
    inserts = [decode_insert_v1(row, types, key_types)[1] for row in inserted]
    _, decoded = decode_inserts_v1(RowBuffer.from_list(inserted), columns, key)
    assert_decoded(decoded, columns, inserts)
    updates = [decode_update_v1(row, types) for row in updated]
    old, new = decode_updates_v1(RowBuffer.from_list(updated), columns)
    assert_decoded(old, columns, [row for row, _ in updates])
    assert_decoded(new, columns, [row for _, row in updates])
    deletes = [decode_row_v1(row, types) for row in deleted]
    assert_decoded(decode_rows_v1(RowBuffer.from_list(deleted), columns), columns, deletes)

    in_tikv = [c for c in columns if c.id > 0]
    rows: list[Row] = [*inserts, *(row for pair in updates for row in pair), *deletes]
    rows = [{i: value for i, value in row.items() if i > 0} for row in rows]
    encoded = RowBuffer.from_list([encode_row_v2(row, types) for row in rows])
    assert_decoded(decode_rows_v2(encoded, in_tikv), in_tikv, rows)


def _in_key(field_type: FieldType) -> FieldType:
    """Type of a value in an insert's handle: weights, unless the collation compares bytes."""
    if field_type.tp in STRING_TYPES and not is_bytewise(field_type):
        return replace(field_type, charset="binary")
    return field_type
