"""decode(encode(rows)) gives the rows, for any types, NULLs, absences and orders."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.tidb.codec.field_type import FieldType
from pyspark_theflash.tidb.codec.row import ColumnSpec, RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_inserts_v1, decode_rows_v1, decode_updates_v1
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from tests.support.decoded import as_python, assert_decoded, types_of
from tests.support.row_oracle import (
    Row,
    decode_row_v1,
    decode_row_v2,
    encode_insert_v1,
    encode_row_v1,
    encode_row_v2,
)
from tests.support.values import field_types, key_types, values

ANY_TYPE = field_types()
IDS = st.integers(1, 300)


@st.composite
def tables(draw: st.DrawFn, types: st.SearchStrategy[FieldType] = ANY_TYPE) -> list[ColumnSpec]:
    ids = draw(st.lists(IDS, min_size=1, max_size=6, unique=True))
    return [ColumnSpec(ColumnID(i), f"c{i}", draw(types)) for i in ids]


def full_rows(columns: list[ColumnSpec]) -> st.SearchStrategy[Row]:
    """Rows that hold all columns, in the table's order."""
    return st.fixed_dictionaries({c.id: st.none() | values(c.type) for c in columns})


@st.composite
def any_rows(draw: st.DrawFn, columns: list[ColumnSpec]) -> Row:
    """Rows that may lack columns and have them in any order."""
    row = draw(full_rows(columns))
    kept: list[int] = draw(st.permutations(list(row)))[: draw(st.integers(0, len(row)))]
    return {i: row[i] for i in kept}


@given(st.data())
def test_v1(data: st.DataObject) -> None:
    columns = data.draw(tables())
    types = types_of(columns)
    rows = data.draw(st.lists(any_rows(columns), max_size=8))
    encoded = [encode_row_v1(row, types) for row in rows]
    assert_decoded(decode_rows_v1(RowBuffer.from_list(encoded), columns), columns, rows)
    assert [decode_row_v1(row, types) for row in encoded] == rows


@given(st.data())
def test_v2(data: st.DataObject) -> None:
    columns = data.draw(tables())
    types = types_of(columns)
    rows = data.draw(st.lists(any_rows(columns), max_size=8))
    encoded = [encode_row_v2(row, types) for row in rows]
    assert_decoded(decode_rows_v2(RowBuffer.from_list(encoded), columns), columns, rows)
    assert [decode_row_v2(row, types) for row in encoded] == rows


@given(st.data())
def test_updates(data: st.DataObject) -> None:
    columns = data.draw(tables())
    types = types_of(columns)
    pairs = data.draw(st.lists(st.tuples(full_rows(columns), full_rows(columns)), max_size=6))
    encoded = [encode_row_v1(old, types) + encode_row_v1(new, types) for old, new in pairs]
    old, new = decode_updates_v1(RowBuffer.from_list(encoded), columns)
    assert_decoded(old, columns, [old for old, _ in pairs])
    assert_decoded(new, columns, [new for _, new in pairs])


@given(st.data())
def test_inserts(data: st.DataObject) -> None:
    columns, handle = data.draw(tables()), data.draw(tables(key_types()))
    types, handle_types = types_of(columns), [spec.type for spec in handle]
    handles = st.tuples(*(values(field_type) for field_type in handle_types))
    rows: list[tuple[tuple[Any, ...], Row]] = data.draw(
        st.lists(st.tuples(handles, any_rows(columns)), min_size=1, max_size=6)
    )
    encoded = [encode_insert_v1(h, handle_types, encode_row_v1(r, types)) for h, r in rows]
    in_keys, decoded = decode_inserts_v1(RowBuffer.from_list(encoded), columns, handle)
    assert_decoded(decoded, columns, [row for _, row in rows])
    assert isinstance(in_keys, tuple)
    assert list(zip(*(as_python(c) for c in in_keys), strict=True)) == [h for h, _ in rows]


@given(st.data())
def test_columns_not_asked_for_are_skipped(data: st.DataObject) -> None:
    columns = data.draw(tables())
    types = types_of(columns)
    rows = data.draw(st.lists(any_rows(columns), max_size=6))
    wanted = columns[::2]
    ids = {spec.id for spec in wanted}
    for encode, decode in ((encode_row_v1, decode_rows_v1), (encode_row_v2, decode_rows_v2)):
        decoded = decode(RowBuffer.from_list([encode(row, types) for row in rows]), wanted)
        assert_decoded(decoded, wanted, rows)
        assert decoded.unknown_ids == {i for row in rows for i in row} - ids
