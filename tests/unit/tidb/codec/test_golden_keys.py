"""Record and index keys written by TiDB, encoded again from the rows' values."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.tidb.codec.bytes import encode_bytes_array
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES
from pyspark_theflash.tidb.codec.handle import (
    decode_common_handles,
    encode_common_handles,
    key_strings,
)
from pyspark_theflash.tidb.codec.key import RawKey, decode_record_key
from pyspark_theflash.tidb.codec.row import RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_rows_v1
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo, parse_table_info
from tests.support.captured_rows import column_specs
from tests.support.golden_vectors import live_tables

# 't', the table's id, "_i", the index's id.
INDEX_ID = slice(11, 19)


def _clustered() -> list[dict[str, Any]]:
    return [t for t in live_tables() if t["table_info"]["is_common_handle"]]


def _values(columns: tuple[ColumnInfo, ...], row: bytes) -> dict[str, "pa.Array[Any] | None"]:
    """Return the columns of one row, None for omitted ones."""
    decode = decode_rows_v2 if row[0] == 128 else decode_rows_v1
    decoded = decode(RowBuffer.from_list([row]), column_specs(columns)).columns
    return {
        c.name: column.values if column.absent is None else None
        for c, column in zip(columns, decoded, strict=True)
    }


@pytest.mark.parametrize("table", _clustered(), ids=lambda t: f"{t['table']}-{t['kind']}")
def test_handles(table: dict[str, Any]) -> None:
    info = parse_table_info(table["db"], table["table_info"])
    assert info.primary_key is not None
    types = [column.type for column in info.handle_columns]
    lengths = [part.length for part in info.primary_key.columns]
    restored = 0
    for key, row in table["records"]:
        handle = decode_record_key(RawKey(bytes.fromhex(key))).handle
        in_key = decode_common_handles(pa.array([handle], pa.binary()), types)
        in_row = _values(info.handle_columns, bytes.fromhex(row))
        columns = [
            in_key[n] if in_row[c.name] is None else in_row[c.name]
            for n, c in enumerate(info.handle_columns)
        ]
        assert encode_common_handles(columns, types, lengths).to_pylist() == [handle]
        restored += any(v is not None for v in in_row.values())
    has_text = any(t.tp in STRING_TYPES for t in types)
    assert restored == (len(table["records"]) if has_text else 0)


def _text_indexes() -> Iterator[Any]:
    for table in live_tables():
        info = table["table_info"]
        columns = {c["offset"]: c for c in info["cols"]}
        for index in info["index_info"] or []:
            part = index["idx_cols"][0]
            column = columns[part["offset"]]
            in_keys = not (index["is_primary"] and info["is_common_handle"])
            if column["type"]["Tp"] in STRING_TYPES and in_keys:
                name = f"{table['table']}.{index['idx_name']['O']}-{column['type']['Collate']}"
                yield pytest.param(table, index["id"], column["name"]["O"], part["length"], id=name)


@pytest.mark.parametrize(("table", "index_id", "name", "length"), list(_text_indexes()))
def test_first_column_of_an_index(
    table: dict[str, Any], index_id: int, name: str, length: int
) -> None:
    info: TableInfo = parse_table_info(table["db"], table["table_info"])
    (column,) = (c for c in info.columns if c.name == name)
    expected: Counter[bytes] = Counter()
    for _, row in table["records"]:
        # Values that a row omits are NULL here.
        values = _values((column,), bytes.fromhex(row))[name]
        if values is None or not values[0].is_valid:
            expected[b"\0"] += 1
        else:
            encoded = encode_bytes_array(key_strings(values, column.type, length))
            expected[b"\1" + encoded[0].as_py()] += 1
    index_keys = [bytes.fromhex(key) for key, _ in table["index_kvs"]]
    wanted_id = (index_id + 2**63).to_bytes(8, "big")
    ours = [key[INDEX_ID.stop :] for key in index_keys if key[INDEX_ID] == wanted_id]
    assert len(ours) == len(table["records"])
    for datum, count in expected.items():
        assert sum(key.startswith(datum) for key in ours) == count
