"""Text forms against the output of a real TiDB, parsed and formatted again."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.tidb.codec.digest import TableDigest
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.jsonl import format_jsonl, parse_jsonl
from pyspark_theflash.tidb.codec.text import format_column, parse_column
from pyspark_theflash.tidb.schema.model import ROWID_NAME, ROWID_TYPE, parse_table_info
from tests.support.row_files import row_files

VECTORS = Path(__file__).parents[3] / "golden" / "vectors"


@pytest.mark.parametrize("workload", ["bank", "tpcc"])
def test_row_files_round_trip(workload: str) -> None:
    for file in row_files(workload):
        lines = file.lines()
        texts = parse_jsonl(lines)
        assert len(lines) == file.rows
        values = [parse_column(t, ft, "c") for t, ft in zip(texts, file.types, strict=True)]
        printed = [format_column(v, ft) for v, ft in zip(values, file.types, strict=True)]
        for column, again, name in zip(texts, printed, file.columns, strict=True):
            assert again.equals(column), f"{file} column {name}"
        assert list(format_jsonl(printed)) == lines


def test_every_type_as_select_shows_it() -> None:
    checked = set()
    for table in _load("live_vectors.json.gz")["tables"]:
        info = parse_table_info(table["db"], table["table_info"])
        types = {column.name: column.type for column in info.columns} | {ROWID_NAME: ROWID_TYPE}
        columns = zip(*table["rows"], strict=True)
        for name, cells in zip(table["select_cols"], columns, strict=True):
            _check_column(_live_texts(cells, types[name]), types[name])
            checked.add(types[name].tp)
    not_stored = {MySQLType.UNSPECIFIED, MySQLType.NULL, MySQLType.NEWDATE, MySQLType.VECTOR}
    assert checked >= set(MySQLType) - not_stored - {MySQLType.VARSTRING}


def test_a_table_of_all_types_under_ddl() -> None:
    for table in _load("text_rows.json.gz")["tables"]:
        info = parse_table_info(table["db"], table["table_info"])
        types = {column.name: column.type for column in info.columns}
        texts = parse_jsonl(table["rows"])
        for name, column in zip(table["columns"], texts, strict=True):
            _check_column(column, types[name])
        assert list(format_jsonl(texts)) == table["rows"]
        digest = TableDigest()
        digest.update(texts)
        assert digest.hexdigest() == table["checksum"]


def _check_column(texts: "pa.Array[Any]", field_type: FieldType) -> None:
    values = parse_column(texts, field_type, "c")
    printed = format_column(values, field_type)
    assert printed.to_pylist() == texts.to_pylist()


def _live_texts(cells: Any, field_type: FieldType) -> "pa.Array[Any]":
    """Parse texts: in this file, bytes are hex only if unprintable, and long texts are, too."""
    as_bytes = [
        bytes.fromhex(cell["hex"]) if isinstance(cell, dict) else cell and cell.encode()
        for cell in cells
    ]
    if field_type.is_binary_string or field_type.tp == MySQLType.BIT:
        return pa.array([b"" if cell == "" else cell for cell in as_bytes], pa.binary())
    return pa.array(as_bytes, pa.binary()).cast(pa.string())


def _load(name: str) -> Any:
    return json.loads(gzip.decompress((VECTORS / name).read_bytes()))
