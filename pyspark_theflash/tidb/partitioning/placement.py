"""Interface that computes the partition of each row of a table, and a base of implementations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pyspark_theflash.tidb.codec.reader import Mask
from pyspark_theflash.tidb.expression.evaluate import Expression, TypedArray, evaluate_integers

Indexes = npt.NDArray[np.int64]
Integers: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.uint64]
NO_PARTITION = -1


class Placement(Protocol):
    """Partitioning of a table, built once from its partition definitions."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that determine the partition, in lower case."""
        ...

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        """Return the partition index of each of `rows` > 0 rows, or NO_PARTITION.

        Raises:
            UnsupportedError: An expression is not supported.
            UnrepresentableValueError: The value of an expression is out of range.
        """
        ...


@dataclass(frozen=True, slots=True)
class ExpressionPlacement:
    """Base of placements by the integer value of an expression."""

    expression: Expression
    where: str

    @property
    def columns(self) -> tuple[str, ...]:
        return self.expression.columns

    def numbers(self, columns: Mapping[str, TypedArray], rows: int) -> tuple[Integers, Mask]:
        """Return the values, int64 or uint64, and which are NULL."""
        return evaluate_integers(self.expression, columns, rows, self.where)
