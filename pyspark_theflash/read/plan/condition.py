"""Which rows a scan keeps: a WHERE, evaluated as TiDB does, beside the data.

TiDB's rules are meant: a zero date is a value, texts compare by their collation, TIMESTAMPs are in
UTC. Evaluated are the stored values, before they become what the reader sees, so a row that is left
out is never shown, printed or refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.errors import ColumnNotFoundError, OptionError, UnsupportedError
from pyspark_theflash.read.pushdown.value import Mask
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.tidb.codec.array import nulls
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.narrow import widened
from pyspark_theflash.tidb.expression.evaluate import Expression, evaluate_integers, parse
from pyspark_theflash.tidb.expression.failure import in_condition
from pyspark_theflash.tidb.expression.syntax import Call
from pyspark_theflash.tidb.schema.model import ColumnInfo, TableInfo

WHERE: Final = "where"


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed WHERE of a table; survives pickle. `columns` are those that it reads."""

    expression: Expression
    columns: tuple[ColumnInfo, ...]

    @classmethod
    def parse(cls, text: str, table: TableInfo) -> "Condition":
        """The condition that `text` is.

        Raises:
            OptionError: it is no expression, or one that is not evaluated here.
            ColumnNotFoundError: it names a column that the table does not have.
        """
        known = {column.name.lower(): column for column in table.public_columns}
        try:
            expression = parse(text, WHERE)
        except UnsupportedError as error:
            raise OptionError(WHERE, f"{error.what} is not supported") from None
        for name in expression.columns:
            if name not in known:
                names = tuple(column.name for column in table.public_columns)
                raise ColumnNotFoundError(table.full_name, name, names)
        condition = cls(expression, tuple(known[name] for name in expression.columns))
        condition._try_out()
        return condition

    def rows(self, batch: pa.RecordBatch) -> Mask:
        """The rows of a batch with the stored columns for which the condition is true.

        Raises:
            UnsupportedError, UnrepresentableValueError: a value with which only TiDB could tell.
        """
        if not batch.num_rows:
            return np.zeros(0, np.bool_)
        columns = {c.name.lower(): _dense(batch.column(column_name(c.id)), c) for c in self.columns}
        return self._is_true(columns, batch.num_rows)

    def _try_out(self) -> None:
        """With NULLs: what cannot be evaluated because of its types should not wait for a task."""
        columns = {c.name.lower(): nulls(1, arrow_type(c.type)) for c in self.columns}
        try:
            self._is_true(columns, 1)
        except UnsupportedError as error:
            raise OptionError(WHERE, f"{error.what} is not supported") from None

    def _is_true(self, columns: Mapping[str, "pa.Array[Any]"], rows: int) -> Mask:
        whole = self.expression
        truth = Expression(whole.text, Call("is true", (whole.tree,)), whole.columns)
        typed = {c.name.lower(): (columns[c.name.lower()], c.type) for c in self.columns}
        with in_condition():
            values, _ = evaluate_integers(truth, typed, rows, WHERE)
        kept: Mask = values != 0
        return kept


def _dense(values: "pa.Array[Any]", column: ColumnInfo) -> "pa.Array[Any]":
    if pa.types.is_dictionary(values.type):
        return values.dictionary_decode()
    return widened(values, arrow_type(column.type))
