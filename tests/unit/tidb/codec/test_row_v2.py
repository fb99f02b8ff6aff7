"""Row format v2: small and big rows together, checksums, and invalid bytes."""

from typing import Any

import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows, RowBuffer
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from tests.support.json_oracle import encode_json
from tests.support.row_oracle import encode_row_v2

INT = FieldType(MySQLType.LONGLONG)
TEXT = FieldType(MySQLType.VARCHAR, 0, 64, -1, "utf8mb4", "utf8mb4_bin")
TYPES = {1: INT, 2: TEXT, 3: INT, 300: INT}
COLUMNS = [ColumnSpec(ColumnID(i), f"c{i}", t) for i, t in TYPES.items()]


def _decode(*rows: bytes) -> DecodedRows:
    return decode_rows_v2(RowBuffer.from_list(rows), COLUMNS)


def _values(decoded: DecodedRows) -> list[list[Any]]:
    return [column.values.to_pylist() for column in decoded.columns]


def test_rows_of_differing_shapes() -> None:
    long = "x" * 70_000
    rows: list[dict[int, Any]] = [
        {1: 5, 2: "é"},
        {},
        {1: None, 2: long},
        {300: 7},
        {1: 300, 3: -1},
        {2: "", 1: -(2**63)},
        {1: 6, 2: None, 3: None},
    ]
    decoded = _decode(*(encode_row_v2(row, TYPES) for row in rows))
    assert _values(decoded) == [[row.get(i) for row in rows] for i in TYPES]
    for i, column in zip(TYPES, decoded.columns, strict=True):
        assert column.absent is not None
        assert column.absent.tolist() == [i not in row for row in rows]


def test_no_rows() -> None:
    assert _values(_decode()) == [[]] * 4


def test_unknown_columns() -> None:
    row = encode_row_v2({1: 5, 2: "x", 3: None}, TYPES)
    decoded = decode_rows_v2(RowBuffer.from_list([row]), COLUMNS[:1])
    assert decoded.columns[0].values.to_pylist() == [5]
    assert decoded.unknown_ids == {2, 3}


@pytest.mark.parametrize("checksum", [b"\1" + bytes(4), b"\2" + bytes(4), b"\x09" + bytes(8)])
def test_a_checksum_that_cannot_be_checked_is_stepped_over(checksum: bytes) -> None:
    rows = [encode_row_v2({1: 5, 2: "x"}, TYPES, checksum), encode_row_v2({1: 6}, TYPES)]
    assert _values(_decode(*rows))[:2] == [[5, 6], ["x", None]]
    for bad in (rows[0][:-1], rows[0] + b"\0", rows[0][: -len(checksum)]):
        with pytest.raises(CodecError):
            _decode(rows[1], bad, rows[1])


@pytest.mark.parametrize(
    ("row", "offset"),
    [
        ("", 0),
        ("800000", 0),
        ("810000000000", 0),
        ("800400000000", 1),
        ("80000100000001", 6),
        ("800001000000010100", 8),
        ("80000100000001010005ff", 10),
        ("800002000000020101000200" + "0505", 6),
        ("800002000000010101000200" + "0505", 6),
        ("800002000000010202000100" + "0505", 6),
        ("800000000200" + "0201", 6),
        ("800001000100" + "01010100" + "05", 5),
        ("800001000000" + "010300" + "050505", 11),
        ("800001000000" + "010000", 8),
    ],
)
def test_bytes_that_are_no_row(row: str, offset: int) -> None:
    good = encode_row_v2({1: 1, 2: "a"}, TYPES)
    for rows in ([bytes.fromhex(row)], [good, bytes.fromhex(row), good]):
        with pytest.raises(CodecError) as caught:
            _decode(*rows)
        assert caught.value.layer == "row v2"
        assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("field_type", "cell"),
    [
        (FieldType(MySQLType.TINY), "8000"),
        (FieldType(MySQLType.TINY, ColumnFlag.UNSIGNED), "0001"),
        (FieldType(MySQLType.DOUBLE), "80000000"),
        (FieldType(MySQLType.NEWDECIMAL, 0, 15, 2), "0f028000"),
        (FieldType(MySQLType.NEWDECIMAL, 0, 15, 2), ""),
        (FieldType(MySQLType.NEWDECIMAL, 0, 15, 2), "4300"),
        (FieldType(MySQLType.DATE), "0102030405060708"),
        (TEXT, "ff"),
    ],
)
def test_values_that_the_column_cannot_hold(field_type: FieldType, cell: str) -> None:
    row = bytes.fromhex("80000100000001" + f"{len(cell) // 2:02x}00" + cell)
    with pytest.raises(CodecError):
        decode_rows_v2(RowBuffer.from_list([row]), [ColumnSpec(ColumnID(1), "c", field_type)])


def test_signedness_is_the_columns() -> None:
    row = RowBuffer.from_list([bytes.fromhex("80000100000001" + "0100" + "ff")])
    for flag, value in ((0, -1), (ColumnFlag.UNSIGNED, 255)):
        column = ColumnSpec(ColumnID(1), "c", FieldType(MySQLType.SHORT, flag))
        assert decode_rows_v2(row, [column]).columns[0].values.to_pylist() == [value]


def test_json_and_vectors_fill_their_places() -> None:
    types = {1: INT, 2: FieldType(MySQLType.JSON), 3: FieldType(MySQLType.VECTOR)}
    columns = [ColumnSpec(ColumnID(i), f"c{i}", t) for i, t in types.items()]
    rows: list[dict[int, Any]] = [
        {1: 5, 2: encode_json({"a": [1, None]}), 3: [1.5, -2.0]},
        {1: None, 2: None, 3: []},
        {2: encode_json(None), 3: None},
    ]
    encoded = [encode_row_v2(row, types) for row in rows]
    decoded = decode_rows_v2(RowBuffer.from_list(encoded), columns)
    assert _values(decoded) == [[row.get(i) for row in rows] for i in types]
    for tp, cells in (
        (MySQLType.JSON, ["", "04", "0403", "040000", "0900", "0c0261", "0c0161ff"]),
        (MySQLType.VECTOR, ["", "00", "01000000", "0000000000", "010000000000c07f"]),
    ):
        for cell in cells:
            row = bytes.fromhex("80000100000001" + f"{len(cell) // 2:02x}00" + cell)
            with pytest.raises(CodecError):
                decode_rows_v2(
                    RowBuffer.from_list([row]), [ColumnSpec(ColumnID(1), "c", FieldType(tp))]
                )
