"""Memory of evaluations: estimates per row, and slices of rows that need little.

A slice needs about `Budget.step_bytes`. Typical queries need less for a whole batch.
"""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.budget import Budget
from pyspark_theflash.read.pushdown.term import ColumnTerm, FunctionTerm, LiteralTerm, Term
from pyspark_theflash.read.pushdown.value import Batch

_VALUE: Final = 16
"""A number that is held while others are computed, with its validity."""
_SHORT: Final = 256
"""The size of a dictionary whose strings are short."""
_RESULT: Final = 64
"""A number while it is computed, which may be a Python integer."""


def row_bytes(term: Term, batch: Batch) -> int:
    """Return the estimated memory for a row of what an evaluation holds at a time."""
    return _sizes(term, batch)[0]


def _sizes(term: Term, batch: Batch) -> tuple[int, int]:
    """Return the memory for a row of the evaluation and of its result."""
    if isinstance(term, ColumnTerm):
        size = _VALUE + text_bytes(batch.array(term.name)) // max(batch.rows, 1)
        return size, size
    if not isinstance(term, FunctionTerm):
        return 0, 0
    arguments = term.arguments[:1] if term.name == "in" else term.arguments
    sizes = [_sizes(argument, batch) for argument in arguments]
    largest = max((size for size, _ in sizes), default=0)
    if term.name in ("and", "or"):
        return largest + _VALUE, _VALUE
    held = [result for _, result in sizes]
    return largest + sum(held) + _RESULT, max(held, default=_VALUE)


def text_bytes(values: pa.Array) -> int:
    """Return the size of strings; of dictionary-encoded ones, that of the indices."""
    return int(values.nbytes) if is_text(values.type) else 0


def literal_bytes(term: Term) -> int:
    """Return the size of the strings that a term contains."""
    if isinstance(term, FunctionTerm):
        return sum(map(literal_bytes, term.arguments))
    value = term.value if isinstance(term, LiteralTerm) else None
    return len(value) if isinstance(value, str | bytes) else 0


def text_width(values: pa.Array) -> int:
    """Return about the size of one of a column's strings; 0 if it is small, or of another type.

    Of dictionary-encoded ones, it is that of the longest, since each row may have it.
    """
    if not pa.types.is_dictionary(values.type):
        return text_bytes(values) // max(len(values), 1)
    if values.dictionary.get_total_buffer_size() <= _SHORT:
        return 0
    return pc.max(pc.binary_length(values.dictionary)).as_py() or 0


def is_text(tp: pa.DataType) -> bool:
    """Return whether a type has strings of variable size, without a dictionary."""
    return bool(pa.types.is_string(tp) or pa.types.is_binary(tp))


def row_slices(rows: int, size_bytes: int, budget: Budget) -> Iterator[tuple[int, int]]:
    """Yield start and length of slices of rows that need about `size_bytes` each."""
    step = max(budget.step_bytes // max(size_bytes, 1), 1)
    for start in range(0, rows, step):
        budget.check()
        yield start, min(step, rows - start)
