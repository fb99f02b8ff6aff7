"""Row format v1: updates, inserts, unusual rows, and invalid bytes."""

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.field_type import ColumnFlag, FieldType, MySQLType
from pyspark_theflash.tidb.codec.row import ColumnSpec, DecodedRows, RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_inserts_v1, decode_rows_v1, decode_updates_v1
from tests.support.decoded import as_python
from tests.support.encoding import encode_varint
from tests.support.json_oracle import encode_json
from tests.support.row_oracle import OddTime, encode_insert_v1, encode_row_v1

INT = FieldType(MySQLType.LONGLONG)
TEXT = FieldType(MySQLType.VARCHAR, 0, 64, -1, "utf8mb4", "utf8mb4_bin")
TYPES = {1: INT, 2: TEXT, 3: INT, 300: INT, -1: INT}
COLUMNS = [ColumnSpec(ColumnID(i), f"c{i}", t) for i, t in TYPES.items() if i > 0]


def _rows(*rows: dict[int, Any]) -> RowBuffer:
    return RowBuffer.from_list([encode_row_v1(row, TYPES) for row in rows])


def _updates(*updates: tuple[dict[int, Any], dict[int, Any]]) -> RowBuffer:
    halves = [encode_row_v1(old, TYPES) + encode_row_v1(new, TYPES) for old, new in updates]
    return RowBuffer.from_list(halves)


def _values(decoded: DecodedRows) -> dict[str, list[Any]]:
    return {s.name: c.values.to_pylist() for s, c in zip(COLUMNS, decoded.columns, strict=True)}


def test_absent_is_not_null() -> None:
    decoded = decode_rows_v1(_rows({1: 5, 2: "é"}, {}, {2: None, 1: 6}, {300: 7}), COLUMNS)
    assert _values(decoded) == {
        "c1": [5, None, 6, None],
        "c2": ["é", None, None, None],
        "c3": [None] * 4,
        "c300": [None, None, None, 7],
    }
    absent = [None if c.absent is None else c.absent.tolist() for c in decoded.columns]
    assert absent == [
        [False, True, False, True],
        [False, True, False, True],
        [True] * 4,
        [True, True, True, False],
    ]
    assert decoded.unknown_ids == frozenset()


def test_unknown_columns_are_skipped_and_named() -> None:
    decoded = decode_rows_v1(_rows({-1: 9, 1: 5, 2: "x"}, {3: 1, 1: 6}), COLUMNS[:1])
    assert decoded.columns[0].values.to_pylist() == [5, 6]
    assert decoded.unknown_ids == {-1, 2, 3}


def test_no_rows() -> None:
    assert _values(decode_rows_v1(_rows(), COLUMNS))["c2"] == []
    assert _values(decode_updates_v1(_rows(), COLUMNS)[1])["c2"] == []
    handles, decoded = decode_inserts_v1(_rows(), COLUMNS, [])
    assert len(handles) == len(decoded.columns[0].values) == 0


def test_a_buffer_without_spare_bytes() -> None:
    rows = _rows({1: 5}, {1: 6})
    tight = RowBuffer(rows.buffer[: rows.offsets[-1]].copy(), rows.offsets)
    assert _values(decode_rows_v1(tight, COLUMNS))["c1"] == [5, 6]


def test_updates_of_differing_shapes() -> None:
    both = {1: 1, 2: "a", 3: 3}, {1: 1, 2: None, 3: 4}
    lacking = {1: 7, 2: "b", 3: 8}, {1: 9, 3: 10}
    reversed_order = {3: 1, 1: 2}, {3: 3, 1: 4}
    old, new = decode_updates_v1(_updates(both, lacking, reversed_order, both), COLUMNS)
    assert _values(old)["c1"] == [1, 7, 2, 1]
    assert _values(new)["c1"] == [1, 9, 4, 1]
    assert _values(old)["c2"] == ["a", "b", None, "a"]
    assert _values(new)["c2"] == [None] * 4
    assert _values(new)["c3"] == [4, 10, 3, 4]
    assert new.columns[1].absent is not None
    assert new.columns[1].absent.tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({1: 1, 2: "a"}, {}),
        ({1: 1}, {3: 1}),
        ({1: 1, 2: "a"}, {1: 1}),
        ({1: 1}, {3: 1, 1: 1}),
    ],
)
def test_updates_of_which_the_halves_cannot_be_told(
    old: dict[int, Any], new: dict[int, Any]
) -> None:
    row = encode_row_v1(old, TYPES) + (encode_row_v1(new, TYPES) if new else b"")
    with pytest.raises(CodecError, match=r"new row|old or new"):
        decode_updates_v1(RowBuffer.from_list([row]), COLUMNS)


def test_a_third_row_in_an_update() -> None:
    row = encode_row_v1({1: 1}, TYPES) * 3
    with pytest.raises(CodecError, match="third occurrence"):
        decode_updates_v1(RowBuffer.from_list([row]), COLUMNS)


def test_int_handles() -> None:
    rows = [encode_insert_v1([h], [INT], encode_row_v1({2: "x"}, TYPES)) for h in (1, -1, 2**62)]
    rows.append(b"\x08\x02\x00")  # handle 1, a row of no columns
    handles, decoded = decode_inserts_v1(RowBuffer.from_list(rows), COLUMNS, [])
    assert isinstance(handles, pa.Array)
    assert handles.type == pa.int64()
    assert handles.to_pylist() == [1, -1, 2**62, 1]
    assert _values(decoded)["c2"] == ["x", "x", "x", None]


def test_common_handles() -> None:
    types = [
        TEXT,
        FieldType(MySQLType.VARCHAR, 0, 20, -1, "utf8mb4", "utf8mb4_general_ci"),
        FieldType(MySQLType.NEWDECIMAL, 0, 10, 2),
        FieldType(MySQLType.TIME, decimal=6),
        FieldType(MySQLType.DATE),
        FieldType(MySQLType.DOUBLE),
        FieldType(MySQLType.LONGLONG, ColumnFlag.UNSIGNED),
    ]
    value = [
        "k",
        b"\0K",
        Decimal("-1.50"),
        dt.timedelta(hours=-1),
        dt.date(2020, 1, 2),
        0.5,
        2**64 - 1,
    ]
    row = encode_insert_v1(value, types, encode_row_v1({1: 1}, TYPES))
    handle = [ColumnSpec(ColumnID(i), f"k{i}", t) for i, t in enumerate(types)]
    columns, decoded = decode_inserts_v1(RowBuffer.from_list([row, row]), COLUMNS, handle)
    assert isinstance(columns, tuple)
    assert [column.to_pylist() for column in columns] == [[v, v] for v in value]
    assert columns[1].type == pa.binary()  # the collation's weights, not a string
    assert _values(decoded)["c1"] == [1, 1]


def test_null_handle() -> None:
    with pytest.raises(CodecError, match="NULL in the handle"):
        decode_inserts_v1(RowBuffer.from_list([b"\x00\x00"]), COLUMNS, [])


@pytest.mark.parametrize(
    ("row", "offset"),
    [
        ("", 0),
        ("0000", 0),
        ("07", 0),
        ("08", 0),
        ("0802", 0),
        ("080208", 2),
        ("08020880", 3),
        ("0802080208", 4),
        ("0804020661", 3),
        ("08040201", 3),
        ("080402ffffffffffffffffff0161", 3),
        ("080263", 2),
        ("08020101000000000000f8", 2),
        ("08020500000000000000", 3),
        ("0802060f02800000", 3),
        ("0802064300", 3),
        ("08020808" + "ff" * 10, 4),
        ("08" + "ff" * 9 + "01" + "00", 0),
        ("080208020802080a", 6),
    ],
)
def test_bytes_that_are_no_row(row: str, offset: int) -> None:
    good = encode_row_v1({1: 1, 2: "a"}, TYPES)
    for rows in ([bytes.fromhex(row)], [good, bytes.fromhex(row), good]):
        with pytest.raises(CodecError) as caught:
            decode_rows_v1(RowBuffer.from_list(rows), COLUMNS)
        assert caught.value.layer == "row v1"
        assert caught.value.offset == offset


def test_an_unknown_column_twice() -> None:
    with pytest.raises(CodecError, match="duplicate column"):
        decode_rows_v1(RowBuffer.from_list([bytes.fromhex("081208020812080a")]), COLUMNS)


def test_too_many_columns() -> None:
    row = b"".join(b"\x08" + encode_varint(n) + b"\0" for n in range(8193))
    with pytest.raises(CodecError, match="more than 8192 columns"):
        decode_rows_v1(RowBuffer.from_list([row]), COLUMNS)


def test_columns_that_come_for_ever_are_not_read_for_long() -> None:
    row = bytes.fromhex("080200080400") * 100_000
    with pytest.raises(CodecError, match="third occurrence of a column at byte 14"):
        decode_rows_v1(RowBuffer.from_list([row]), COLUMNS)


def test_not_utf8() -> None:
    with pytest.raises(CodecError, match="UTF-8"):
        decode_rows_v1(RowBuffer.from_list([bytes.fromhex("08040202ff")]), COLUMNS)


@pytest.mark.parametrize(
    ("field_type", "value"),
    [
        (FieldType(MySQLType.TINY), "088002"),  # 128
        (FieldType(MySQLType.TINY), "09ff01"),  # 255
        (FieldType(MySQLType.TINY, ColumnFlag.UNSIGNED), "0801"),  # -1
        (INT, "09" + "ff" * 9 + "01"),  # 2**64 - 1
        (FieldType(MySQLType.LONGLONG, ColumnFlag.UNSIGNED), "0801"),
        (INT, "020261"),  # a string
        (INT, "05bff8000000000000"),
        (TEXT, "0802"),
        (FieldType(MySQLType.DATE), "0802"),
        (FieldType(MySQLType.DATE), "0901"),  # a time of day
        (FieldType(MySQLType.DATETIME), "09" + "ff" * 9 + "01"),
        (FieldType(MySQLType.TIME), "0802"),  # one nanosecond
        (FieldType(MySQLType.TIME), "08" + "fe" + "ff" * 8 + "01"),
        (FieldType(MySQLType.FLOAT), "05ffefffffffffffff"),  # 1.8e308
        (FieldType(MySQLType.FLOAT), "05fff0000000000001"),  # a signalling NaN
        (FieldType(MySQLType.DOUBLE), "05fff0000000000000"),  # infinity
        (FieldType(MySQLType.NEWDECIMAL, 0, 1, 0), "0602008c"),  # 12
    ],
)
def test_values_that_the_column_cannot_hold(field_type: FieldType, value: str) -> None:
    column = ColumnSpec(ColumnID(1), "c", field_type)
    with pytest.raises(CodecError):
        decode_rows_v1(RowBuffer.from_list([bytes.fromhex("0802" + value)]), [column])


def test_either_signedness_on_the_wire() -> None:
    rows = RowBuffer.from_list([bytes.fromhex("08020902"), bytes.fromhex("08020804")])
    for flag in (0, ColumnFlag.UNSIGNED):
        column = ColumnSpec(ColumnID(1), "c", FieldType(MySQLType.TINY, flag))
        assert decode_rows_v1(rows, [column]).columns[0].values.to_pylist() == [2, 2]


@pytest.mark.parametrize("tp", [MySQLType.DATE, MySQLType.DATETIME, MySQLType.TIMESTAMP])
def test_dates_that_no_calendar_has(tp: MySQLType) -> None:
    days = [OddTime(0, 0, 0), None, OddTime(2020, 2, 31), dt.date(2020, 2, 29)]
    if tp != MySQLType.DATE:
        days[3] = dt.datetime(2020, 2, 29, tzinfo=dt.timezone.utc if tp == 7 else None)
    rows = [encode_row_v1({1: day}, {1: FieldType(tp)}) for day in days]
    column = ColumnSpec(ColumnID(1), "d", FieldType(tp))
    decoded = decode_rows_v1(RowBuffer.from_list(rows), [column])
    assert as_python(decoded.columns[0].values) == days


def test_values_that_tell_their_size_themselves() -> None:
    """JSON and vectors have no length prefix: their ends must be computed."""
    types = {1: FieldType(MySQLType.JSON), 2: FieldType(MySQLType.VECTOR), 3: INT}
    jsons = [encode_json(v) for v in (None, 1, 2.5, "x" * 200, [[], {"a": [1]}], {})]
    jsons += [bytes([0x0D, 252, 2, 0, 1]), bytes([0x0E, *bytes(8)]), bytes([0x11, *bytes(12)])]
    rows = [
        {1: value, 2: [float(n)] * n, 3: n} if n % 2 else {2: [float(n)] * n, 1: value, 3: n}
        for n, value in enumerate(jsons)
    ]
    buffer = RowBuffer.from_list([encode_row_v1(row, types) for row in rows])
    for wanted in ([1, 2, 3], [3], []):
        columns = [ColumnSpec(ColumnID(i), f"c{i}", types[i]) for i in wanted]
        decoded = decode_rows_v1(buffer, columns)
        for spec, column in zip(columns, decoded.columns, strict=True):
            assert column.values.to_pylist() == [row[spec.id] for row in rows]
        assert decoded.unknown_ids == {1, 2, 3} - set(wanted)


@pytest.mark.parametrize(
    "value",
    [
        "0a",
        "0a04",
        "0a0500",
        "0a09" + "00" * 7,
        "0a0c05616263",
        "0a0cffffffffffffffffff01",
        "0a0dfc0500",
        "0a01" + "00" * 7,
        "0a0100000000ffffffff",
        "14",
        "14010000000000",
        "14ffffffff",
    ],
)
def test_values_that_end_outside(value: str) -> None:
    good = encode_row_v1({2: "x"}, TYPES)
    bad = bytes.fromhex("0802" + value)
    with pytest.raises(CodecError):
        decode_rows_v1(RowBuffer.from_list([good, bad, good]), [])


def test_a_vector_of_numbers_that_are_none() -> None:
    column = ColumnSpec(ColumnID(1), "c", FieldType(MySQLType.VECTOR))
    for bad in ("0000c07f", "0000807f"):
        row = bytes.fromhex("080214" + "02000000" + "0000803f" + bad)
        with pytest.raises(CodecError, match="not finite"):
            decode_rows_v1(RowBuffer.from_list([row]), [column])


def test_errors_do_not_show_values() -> None:
    secret = b"\xffsecret"
    row = bytes.fromhex("080402") + bytes([2 * len(secret)]) + secret
    with pytest.raises(CodecError) as caught:
        decode_rows_v1(RowBuffer.from_list([row]), COLUMNS)
    assert "secret" not in str(caught.value)
    assert secret.hex() not in str(caught.value)


def test_all_steps_at_different_columns() -> None:
    """Rows without a common column can be decoded."""
    ids = [1, 2, 3, 300]
    rng = np.random.default_rng(1)
    rows: list[dict[int, Any]] = [
        {int(i): "s" if i == 2 else n for i in rng.permutation(ids)[: rng.integers(1, 5)]}
        for n in range(200)
    ]
    decoded = _values(decode_rows_v1(_rows(*rows), COLUMNS))
    assert decoded == {f"c{i}": [row.get(i) for row in rows] for i in ids}
