"""Narrow decimals: the same values, never with more digits than their type."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.tidb.codec.narrow import is_narrow, narrow_ints, narrowed, widened


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    precision = draw(st.integers(1, 18))
    scale = draw(st.integers(0, precision))
    most = 10 ** draw(st.integers(0, precision)) - 1
    ints = draw(st.lists(st.none() | st.integers(-most, most), max_size=20))
    values = [None if n is None else Decimal(n).scaleb(-scale) for n in ints]
    start = draw(st.integers(0, len(values)))
    return pa.array(values, pa.decimal128(precision, scale)).slice(start)


@given(columns())
def test_the_same_values(values: pa.Array) -> None:
    few = narrowed(values)
    assert few.to_pylist() == values.to_pylist()
    assert widened(few, values.type).equals(values)
    if len(values):
        assert is_narrow(few.type)
        assert few.type.scale == values.type.scale
        assert few.type.precision <= values.type.precision
        valid = values.is_valid().to_pylist()
        whole = [
            None if v is None else int(v.scaleb(values.type.scale)) for v in values.to_pylist()
        ]
        assert [
            n if is_valid else None
            for n, is_valid in zip(narrow_ints(few).tolist(), valid, strict=True)
        ] == whole


@given(columns(), st.integers(0, 20))
def test_parts_of_them(values: pa.Array, start: int) -> None:
    part = narrowed(values).slice(start)
    assert widened(part, values.type).equals(values.slice(start))


@pytest.mark.parametrize(
    ("value", "bits"),
    [("9999999.99", 32), ("-9999999.99", 32), ("10000000.00", 64), ("-10000000.00", 64)],
)
def test_no_more_bits_than_the_largest_takes(value: str, bits: int) -> None:
    values = pa.array([Decimal("0.00"), Decimal(value)], pa.decimal128(18, 2))
    assert narrowed(values).type.bit_width == bits


def test_others_stay_as_they_are() -> None:
    for tp in (pa.decimal128(19, 0), pa.decimal256(40, 0), pa.int64()):
        values = pa.array([1, None], tp)
        assert narrowed(values) is values
        assert widened(values, pa.decimal128(18, 0)) is values
