"""Comparing decoded columns with rows of the oracle."""

from collections.abc import Sequence

from pyspark_theflash.codec.arrow import arrow_type
from pyspark_theflash.codec.row import ColumnSpec, DecodedRows
from tests.support.row_oracle import Row, Types


def types_of(columns: Sequence[ColumnSpec]) -> Types:
    return {spec.id: spec.type for spec in columns}


def assert_decoded(
    decoded: DecodedRows, columns: Sequence[ColumnSpec], rows: Sequence[Row]
) -> None:
    """The same values, the same absences, the right Arrow types."""
    for spec, column in zip(columns, decoded.columns, strict=True):
        column.values.validate(full=True)
        assert column.values.type == arrow_type(spec.type)
        assert column.values.to_pylist() == [row.get(spec.id) for row in rows], spec.name
        absent = [spec.id not in row for row in rows]
        assert (None if column.absent is None else column.absent.tolist()) == (
            absent if any(absent) else None
        ), spec.name
