"""How the rows of one table find their partition."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pyspark_theflash.tidb.expression.evaluate import TypedArray

Indexes = npt.NDArray[np.int64]
NO_PARTITION = -1


class Placement(Protocol):
    """Made once of a table's partition definitions."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that decide, in lower case."""
        ...

    def locate(self, columns: Mapping[str, TypedArray], rows: int) -> Indexes:
        """For each of `rows` > 0 rows the place of its partition, or NO_PARTITION.

        Raises:
            UnsupportedError: something is not evaluated here.
            UnrepresentableValueError: an expression's value is out of range.
        """
        ...
