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
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.read.pushdown.possible import PossibleParts, ordered, sought_values
from pyspark_theflash.read.pushdown.value import Mask
from pyspark_theflash.storage.engine.api import Bounds
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.collation import compares_bytes
from pyspark_theflash.tidb.codec.field_type import INTEGER_TYPES, STRING_TYPES, MySQLType
from pyspark_theflash.tidb.expression.evaluate import Expression, evaluate_integers, parse
from pyspark_theflash.tidb.expression.failure import in_condition
from pyspark_theflash.tidb.expression.syntax import Call, Literal, Node
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

    def possible(self, bounds: Bounds, budget: Budget = DEFAULT_BUDGET) -> Mask:
        """Return the parts of a table that may have rows for which the condition is true.

        Strings count only under collations that compare all of their bytes.
        """
        columns = [c for c in self.columns if _is_in_byte_order(c)]
        types = {c.name.lower(): c.type for c in columns}

        def is_false(comparison: Call, name: str, values: pa.Array) -> Mask:
            is_text = types[name].tp in STRING_TYPES
            if is_text and not _is_text(comparison.arguments[1]):
                return np.zeros(len(values), np.bool_)
            expression = Expression(WHERE, Call("is false", (comparison,)), (name,))
            typed = {name: (values, types[name])}
            results, _ = evaluate_integers(expression, typed, len(values), WHERE, budget)
            mask: Mask = results != 0
            return mask

        return PossibleParts(bounds.parts, ordered(bounds, columns), is_false).of(
            self.expression.tree
        )

    @property
    def sought(self) -> dict[ColumnID, list[int | str | bytes]]:
        """Integers or strings of which a column must equal one, by column id."""
        columns = {c.name.lower(): c for c in self.columns if _is_in_byte_order(c)}
        sought: dict[ColumnID, list[int | str | bytes]] = {}
        for name, literals in sought_values(self.expression.tree).items():
            if name in columns:
                column = columns[name]
                is_text = column.type.tp in STRING_TYPES
                # YEARs compare with numbers of two digits.
                is_integer = column.type.tp in INTEGER_TYPES - {MySQLType.YEAR}
                wanted = str if is_text else int
                if (is_text or is_integer) and all(type(c.value) is wanted for c in literals):
                    sought[column.id] = [each.value for each in literals]
        return sought

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


def _is_in_byte_order(column: ColumnInfo) -> bool:
    """Return whether values other than strings, or strings with equal bytes only, are equal."""
    return column.type.tp not in STRING_TYPES or compares_bytes(column.type)


def _is_text(node: Node) -> bool:
    return isinstance(node, Literal) and isinstance(node.value, str)
