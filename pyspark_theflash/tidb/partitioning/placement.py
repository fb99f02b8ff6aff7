"""Interface that computes the partition of each row of a table."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pyspark_theflash.tidb.expression.evaluate import TypedArray

Indexes = npt.NDArray[np.int64]
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
