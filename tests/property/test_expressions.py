"""The evaluator follows the rules for every row, also for NULLs and overflows."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import UnrepresentableValueError, UnsupportedError
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.expression.evaluate import evaluate, parse
from tests.support import expression_oracle as oracle

BIGINT = FieldType(MySQLType.LONGLONG)
VALUES = st.none() | st.integers(-9, 9) | st.sampled_from([2**63 - 1, -(2**63), 2**62, 2**32])
LEAVES = st.sampled_from(["a", "b"]) | st.none() | st.integers(0, 9)


def _operations(operands: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    binary = st.sampled_from([*oracle.ARITHMETIC, *oracle.COMPARISONS, "<=>", "AND", "OR"])
    unary = st.sampled_from(["NOT", "-", "IS NULL"])
    return (
        st.tuples(binary, operands, operands)
        | st.tuples(unary, operands)
        | st.tuples(st.just("IFNULL"), operands, operands)
        | st.tuples(st.just("IF"), operands, operands, operands)
    )


TREES = st.recursive(LEAVES, _operations, max_leaves=12)


@given(TREES, st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8))
def test_integer_expressions(tree: Any, rows: list[tuple[int | None, int | None]]) -> None:
    columns = {
        name: (pa.array(values, pa.int64()), BIGINT)
        for name, values in zip("ab", zip(*rows, strict=True), strict=True)
    }
    expression = parse(oracle.sql(tree))
    try:
        expected = [oracle.evaluate(tree, dict(zip("ab", row, strict=True))) for row in rows]
    except oracle.Overflow:
        with pytest.raises(UnrepresentableValueError):
            evaluate(expression, columns, BIGINT, "t")
    else:
        assert evaluate(expression, columns, BIGINT, "t").to_pylist() == expected


@given(st.text(max_size=60) | st.text("`a1+-*/%()'\"., <>=!&|^~xnoti", max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        parse(text)
    except UnsupportedError:
        pass
    else:
        assert text.strip()
