"""Common type of several operands, and assembly of one vector from parts: CASE, IF, GREATEST."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyspark_theflash.tidb.expression.allowance import check_time
from pyspark_theflash.tidb.expression.collation import as_texts
from pyspark_theflash.tidb.expression.comparison import compare
from pyspark_theflash.tidb.expression.convert import (
    INT64_MAX,
    rescale,
    to_decimal,
    to_objects,
    to_real,
)
from pyspark_theflash.tidb.expression.failure import LackingError, reject_in_condition
from pyspark_theflash.tidb.expression.vector import INTEGERS, Kind, Vector, nothing, null_of

Rows = npt.NDArray[np.int64]


def common_kind(vectors: Sequence[Vector]) -> Kind:
    """Return the kind that all vectors are converted to; NULL converts to any."""
    kinds = {Kind.INT if v.is_bit else v.kind for v in vectors} - {Kind.NULL}
    if any(v.is_hexadecimal for v in vectors):
        raise LackingError("mixing a hexadecimal number with others in IF, CASE or similar")
    others = {v.kind for v in vectors if not v.is_bit} - {Kind.NULL, Kind.TEXT}
    large = any((v.number.data > INT64_MAX).any() for v in vectors if v.is_bit and v.number)
    if any(v.is_bit for v in vectors) and (others or large):
        raise LackingError("mixing BIT with other types in IF, CASE or similar")
    if kinds == INTEGERS and any((v.data > INT64_MAX).any() for v in vectors):
        raise LackingError("mixing BIGINT and larger values in IF, CASE or similar")
    if kinds == {Kind.TIME, Kind.DURATION}:
        raise LackingError("mixing DATETIME and TIME in IF, CASE or similar")
    if len(kinds) <= 1:
        return next(iter(kinds), Kind.NULL)
    if kinds & {Kind.TEXT, Kind.TIME, Kind.DURATION}:
        if any(v.single for v in vectors):
            reject_in_condition("mixing FLOAT and text in IF, CASE or similar")
        if any(v.is_named for v in vectors) and kinds != {Kind.TEXT}:
            reject_in_condition("mixing ENUM or SET with other types in IF, CASE or similar")
        return Kind.TEXT
    return Kind.REAL if Kind.REAL in kinds else Kind.DECIMAL


def unify(vectors: Sequence[Vector]) -> list[Vector]:
    """Convert the vectors to their common kind and scale."""
    kind = common_kind(vectors)
    years = {v.is_year for v in vectors if v.kind is not Kind.NULL}
    is_year = years.pop() if len(years) == 1 else None
    if kind is Kind.NULL:
        return list(vectors)
    if kind is Kind.DECIMAL:
        unified = _unify_decimals([to_decimal(v) for v in vectors])
        return [replace(v, is_year=is_year) for v in unified]
    if kind is Kind.REAL:
        is_single = all(v.single for v in vectors)
        return [replace(to_real(v), single=is_single) for v in vectors]
    if kind is Kind.TEXT:
        return _unify_texts(vectors)
    digits = max(v.digits for v in vectors)
    dates = {v.is_date for v in vectors if v.kind is Kind.TIME}
    is_date = dates.pop() if len(dates) == 1 else None
    dtype = {Kind.UINT: np.uint64, Kind.TIME: np.uint64}.get(kind, np.int64)
    plain = [v.number if v.is_bit and v.number is not None else v for v in vectors]
    return [
        replace(
            v,
            kind=kind,
            data=v.data.astype(dtype),
            digits=digits,
            is_date=is_date,
            is_year=is_year,
        )
        for v in plain
    ]


def _unify_decimals(vectors: Sequence[Vector]) -> list[Vector]:
    digits = max(v.digits for v in vectors)
    scales = {(v.digits, v.shown) for v in vectors}
    is_mixed = len(scales) > 1 or any(v.is_mixed for v in vectors)
    return [
        replace(
            v,
            data=rescale(to_objects(v.data, v.null), v.digits, digits),
            digits=digits,
            is_mixed=is_mixed,
        )
        for v in vectors
    ]


def _unify_texts(vectors: Sequence[Vector]) -> list[Vector]:
    merged = as_texts(vectors)
    are_named = [v.is_named for v in vectors]
    has_one_value = sum(v.kind is not Kind.NULL for v in vectors) == 1
    if len(vectors) == 1 or (has_one_value and not any(are_named)):
        return merged
    is_mixed = any(are_named) or any(v.is_mixed for v in vectors)
    return [replace(m, number=None, is_mixed=is_mixed) for m in merged]


def assemble(pieces: Sequence[tuple[Rows, Vector]], row_count: int) -> Vector:
    """Assemble one vector from (row indices, values) pieces; other rows are NULL."""
    unified = unify([vector for _, vector in pieces])
    pieces = [
        (rows, vector)
        for (rows, _), vector in zip(pieces, unified, strict=True)
        if vector.kind is not Kind.NULL and len(rows)
    ]
    if not pieces:
        return nothing(row_count)
    first = pieces[0][1]
    joined = _concatenated([vector for _, vector in pieces])
    slots = np.full(row_count, -1, np.int64)
    slots[np.concatenate([rows for rows, _ in pieces])] = np.arange(len(joined))
    missing = slots < 0
    chosen = joined.take(np.where(missing, 0, slots)).with_null(missing)
    return replace(chosen, collation=first.collation, coercibility=first.coercibility)


def _concatenated(vectors: Sequence[Vector]) -> Vector:
    null = np.concatenate([v.null for v in vectors])
    data: Any
    if vectors[0].kind is Kind.TEXT:
        data = pa.concat_arrays([v.data for v in vectors])
    else:
        data = np.concatenate([v.data for v in vectors])
    numbers = [v.number for v in vectors if v.number is not None]
    number = _concatenated(numbers) if len(numbers) == len(vectors) else None
    return replace(vectors[0], data=data, null=null, number=number, is_constant=False)


def _extreme(*, greatest: bool) -> Callable[[Sequence[Vector]], Vector]:
    def apply(operands: Sequence[Vector]) -> Vector:
        kinds = {v.kind for v in operands}
        if kinds & {Kind.TIME, Kind.DURATION} and len(kinds - {Kind.NULL}) > 1:
            raise LackingError("GREATEST or LEAST of times and something else")
        if any(v.kind is Kind.UINT and (v.data > INT64_MAX).any() for v in operands):
            raise LackingError("GREATEST or LEAST of integers beyond BIGINT")
        null = null_of(operands)
        best, *others = unify(operands)
        for other in others:
            check_time()
            pair = (best, other) if greatest else (other, best)
            is_better = compare("less", *pair).data != 0
            rows = np.arange(len(null))
            best = assemble(
                [
                    (rows[~is_better], best.take(rows[~is_better])),
                    (rows[is_better], other.take(rows[is_better])),
                ],
                len(null),
            )
        return replace(best.with_null(null), single=False)

    return apply


greatest: Final = _extreme(greatest=True)
least: Final = _extreme(greatest=False)


def truth_rows(condition: Vector) -> tuple[Rows, Rows]:
    """Return the indices of the rows where a condition is true, and of all others."""
    holds = (condition.data != 0) & ~condition.null
    return np.flatnonzero(holds), np.flatnonzero(~holds)
