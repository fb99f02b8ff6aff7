"""Base rows: captured bases with their checksums, and typed errors for invalid ones."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import (
    CorruptionError,
    SchemaFileError,
    UnsupportedError,
)
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.time import impossible
from pyspark_theflash.tidb.schema import base
from pyspark_theflash.tidb.schema.base import BaseTable, read_base, read_base_rows
from pyspark_theflash.tidb.schema.model import ROWID_NAME, TableInfo, parse_table_info
from tests.support.row_files import FIXTURES, table_infos


def column(number: int, name: str, tp: int, charset: str = "binary", **more: Any) -> dict[str, Any]:
    type_ = {"Tp": tp, "Flag": 0, "Flen": 20, "Decimal": 0, "Charset": charset, "Collate": ""}
    info = {"id": number, "name": {"O": name}, "offset": number - 1, "state": 5}
    return info | {"type": type_ | {"Elems": None}} | more


def table_of(*columns: dict[str, Any], pk_is_handle: bool = True) -> TableInfo:
    info = {"id": 7, "name": {"O": "t"}, "cols": columns, "pk_is_handle": pk_is_handle}
    return parse_table_info("d", info)


ID_AND_TEXT = table_of(column(1, "id", 8), column(2, "v", 15, "utf8mb4"))
# One row, (1, 'a'), with a constant checksum, so that a change of the rule is detected.
LINE = b'["1","a"]\n'
CHECKSUM = "452524e288679d076040c85ef53397c1"


def write_base(folder: Path, content: bytes, **changes: Any) -> BaseTable:
    """Write a base of the table `d.t`, and read it through its index."""
    (folder / "t.jsonl.gz").write_bytes(content)
    entry = {"db": "d", "table": "t", "table_id": 7, "columns": ["id", "v"], "file": "t.jsonl.gz"}
    entry |= {"rows": 1, "checksum": CHECKSUM, **changes}
    (folder / "base.json").write_text(json.dumps([entry]))
    return read_base(folder).tables[0]


def rows_of(base_table: BaseTable, table: TableInfo = ID_AND_TEXT) -> list[dict[str, Any]]:
    return [row for batch in read_base_rows(base_table, table, 100) for row in batch.to_pylist()]


@pytest.mark.parametrize("workload", ["bank", "tpcc"])
def test_captured_bases(workload: str) -> None:
    tables = table_infos(workload)
    listed = read_base(FIXTURES / workload / "base").tables
    assert {table.table_id for table in listed} == tables.keys()
    for base_table in listed:
        info = tables[base_table.table_id]
        batches = list(read_base_rows(base_table, info, 1000))
        assert sum(batch.num_rows for batch in batches) == base_table.rows
        assert all(batch.num_rows == 1000 for batch in batches[:-1])
        fields = [(c.name, arrow_type(c.type)) for c in info.public_columns]
        if info.has_rowid:
            fields.append((ROWID_NAME, pa.int64()))
        assert all(batch.schema.equals(pa.schema(fields)) for batch in batches)


def test_rows(tmp_path: Path) -> None:
    assert rows_of(write_base(tmp_path, gzip.compress(LINE))) == [{"id": 1, "v": "a"}]


def test_no_rows(tmp_path: Path) -> None:
    base_table = write_base(tmp_path, gzip.compress(b""), rows=0, checksum="0" * 32)
    assert rows_of(base_table) == []


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        gzip.compress(LINE, mtime=0)[:-1],
        gzip.compress(LINE, mtime=0)[:-8] + bytes(8),
        gzip.compress(LINE, mtime=0) + b"more",
        gzip.compress(b"\xff\n", mtime=0),
        gzip.compress(b"\n", mtime=0),
        gzip.compress(b'["1"]\n', mtime=0),
        gzip.compress(b'["x","a"]\n', mtime=0),
        gzip.compress(b'[{"x":"00"},"a"]\n', mtime=0),
        gzip.compress(b'["1","b"]\n', mtime=0),
        gzip.compress(LINE + LINE, mtime=0),
        gzip.compress(b"", mtime=0),
    ],
)
def test_other_rows_than_announced(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CorruptionError) as caught:
        rows_of(write_base(tmp_path, content))
    assert caught.value.file.endswith("t.jsonl.gz")


def test_offset_of_bad_rows(tmp_path: Path) -> None:
    base_table = write_base(tmp_path, gzip.compress(LINE + LINE + b"[]\n"))
    batches = read_base_rows(base_table, ID_AND_TEXT, 2)
    assert next(batches).num_rows == 2
    with pytest.raises(CorruptionError, match=f"at byte {2 * len(LINE)}"):
        next(batches)


def test_long_rows_make_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_BATCH_BYTES", len(LINE) + 1)
    base_table = write_base(tmp_path, gzip.compress(LINE * 5), rows=5)
    batches = read_base_rows(base_table, ID_AND_TEXT, 100)
    assert [next(batches).num_rows for _ in range(3)] == [2, 2, 1]


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_LINE_BYTES", 1000)
    with pytest.raises(CorruptionError, match="no line end within 1000 bytes"):
        rows_of(write_base(tmp_path, gzip.compress(LINE + b" " * 2000)))


@pytest.mark.parametrize(
    ("columns", "table", "named"),
    [
        (["id", "w"], ID_AND_TEXT, "v, w"),
        (["id"], ID_AND_TEXT, ": v"),
        (["id", "v", "v"], ID_AND_TEXT, "twice"),
        (["id", "v", ROWID_NAME], ID_AND_TEXT, ROWID_NAME),
        (["id"], table_of(column(1, "id", 8), pk_is_handle=False), ROWID_NAME),
        (["id", "v"], table_of(column(1, "id", 8), column(2, "v", 8, state=3)), ": v"),
    ],
)
def test_columns_are_the_tables(
    tmp_path: Path, columns: list[str], table: TableInfo, named: str
) -> None:
    base_table = write_base(tmp_path, gzip.compress(LINE), columns=columns)
    with pytest.raises(SchemaFileError, match=named):
        rows_of(base_table, table)


def test_virtual_columns_may_be_missing(tmp_path: Path) -> None:
    virtual = column(3, "g", 8, generated_expr_string="`id` + 1", generated_stored=False)
    table = table_of(column(1, "id", 8), column(2, "v", 15, "utf8mb4"), virtual)
    assert rows_of(write_base(tmp_path, gzip.compress(LINE)), table) == [{"id": 1, "v": "a"}]


def test_zero_date(tmp_path: Path) -> None:
    table = table_of(column(1, "id", 8), column(2, "v", 10))
    base_table = write_base(
        tmp_path,
        gzip.compress(b'["1","0000-00-00"]\n'),
        checksum=hashlib.sha256(b"S1:1;S10:0000-00-00;").hexdigest()[:32],
    )
    (batch,) = read_base_rows(base_table, table, 100)
    assert impossible(batch.column("v")).to_pylist() == [True]


def test_type_without_text_form(tmp_path: Path) -> None:
    table = table_of(column(1, "id", 8), column(2, "v", 6))
    with pytest.raises(UnsupportedError, match="NULL"):
        rows_of(write_base(tmp_path, gzip.compress(LINE)), table)


def test_row_file_is_missing(tmp_path: Path) -> None:
    base_table = write_base(tmp_path, b"")
    base_table.file.unlink()
    with pytest.raises(SchemaFileError, match="no such file"):
        rows_of(base_table)


def test_index_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SchemaFileError, match=r"base\.json: No such file"):
        read_base(tmp_path)


@pytest.mark.parametrize("text", ["", "[", "7", '{"a": 1}', "[7]", "[{}]", "\xff", "[" * 100_000])
def test_index_is_garbled(tmp_path: Path, text: str) -> None:
    (tmp_path / "base.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SchemaFileError, match=r"not an index of base tables|not JSON"):
        read_base(tmp_path)


@pytest.mark.parametrize("file", ["../t.jsonl.gz", "/etc/passwd", "a/b", "", None, 7])
def test_row_files_lie_beside_the_index(tmp_path: Path, file: object) -> None:
    with pytest.raises(SchemaFileError, match="not an index of base tables"):
        write_base(tmp_path, gzip.compress(LINE), file=file)
