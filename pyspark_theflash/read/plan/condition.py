"""WHERE conditions of scans, evaluated by TiDB's rules next to the data.

A zero date is a value, strings compare by their collation, and TIMESTAMPs are in UTC. Conditions
are evaluated on stored values, before conversion to the returned form, so a row that is filtered
out is never converted and cannot raise there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.errors import ColumnNotFoundError, OptionError, UnsupportedError
from pyspark_theflash.read.pushdown.value import Mask
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.expression.evaluate import Expression, evaluate_integers, parse
from pyspark_theflash.tidb.expression.failure import in_condition
from pyspark_theflash.tidb.expression.syntax import Call
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

WHERE: Final = "where"


@dataclass(frozen=True, slots=True)
class Condition:
    """Parsed WHERE of a table; `columns` are those that it reads. Survives pickle."""

    expression: Expression
    columns: tuple[ColumnInfo, ...]

    @classmethod
    def parse(cls, text: str, table: TableInfo, budget: Budget = DEFAULT_BUDGET) -> "Condition":
        """Parse a condition.

        Raises:
            OptionError: The text is not an expression, or one that is not supported.
            ColumnNotFoundError: The expression names a column that the table does not have.
            SqlMemoryError: Its constants need more memory than the budget.
        """
        columns = {column.name.lower(): column for column in table.public_columns}
        try:
            expression = parse(text, WHERE)
        except UnsupportedError as error:
            raise OptionError(WHERE, f"{error.what} is not supported") from None
        for name in expression.columns:
            if name not in columns:
                names = tuple(column.name for column in table.public_columns)
                raise ColumnNotFoundError(table.full_name, name, names)
        condition = cls(expression, tuple(columns[name] for name in expression.columns))
        condition._try_out(budget)
        return condition

    def rows(self, batch: pa.RecordBatch, budget: Budget = DEFAULT_BUDGET) -> Mask:
        """Return the rows of a stored batch for which the condition is true.

        Raises:
            UnsupportedError, UnrepresentableValueError: The result for a value could differ from
                TiDB's.
            SqlMemoryError: A row needs more memory than the budget.
        """
        if not batch.num_rows:
            return np.zeros(0, np.bool_)
        columns = {c.name.lower(): batch.column(column_name(c.id)) for c in self.columns}
        return self._is_true(columns, batch.num_rows, budget)

    def _try_out(self, budget: Budget) -> None:
        """Evaluate on NULLs, so that unsupported types raise when planning and not in a task."""
        columns = {c.name.lower(): pa.nulls(1, arrow_type(c.type)) for c in self.columns}
        try:
            self._is_true(columns, 1, budget)
        except UnsupportedError as error:
            raise OptionError(WHERE, f"{error.what} is not supported") from None

    def _is_true(self, columns: Mapping[str, pa.Array], rows: int, budget: Budget) -> Mask:
        whole = self.expression
        truth = Expression(whole.text, Call("is true", (whole.tree,)), whole.columns)
        typed = {c.name.lower(): (columns[c.name.lower()], c.type) for c in self.columns}
        with in_condition():
            values, _ = evaluate_integers(truth, typed, rows, WHERE, budget)
        mask: Mask = values != 0
        return mask
