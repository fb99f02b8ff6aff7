"""Operations that a scan applies next to the data.

    filter         returns rows for which it is true; evaluated on the values that the scan returns
    aggregation    returns partial aggregates of each region instead of rows
    order, limit   return the first rows of each region

They follow Spark's rules (`read.pushdown.evaluate`, `reduce`, `top`). A WHERE
(`read.plan.condition`) follows TiDB's and is applied first. A value that cannot be returned cannot
be compared either: it raises as if it were read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.budget import DEFAULT_BUDGET, Budget
from pyspark_theflash.base.errors import (
    OptionError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.base.types import ColumnID
from pyspark_theflash.read.present import Presentation
from pyspark_theflash.read.pushdown.evaluate import rows_for_which, truth
from pyspark_theflash.read.pushdown.fold import Folding
from pyspark_theflash.read.pushdown.possible import PossibleParts, ordered, sought_values
from pyspark_theflash.read.pushdown.term import (
    Aggregation,
    LiteralKind,
    SortKey,
    Term,
    distinct,
)
from pyspark_theflash.read.pushdown.top import check_order, first_rows, limited
from pyspark_theflash.read.pushdown.value import Batch, Mask
from pyspark_theflash.storage.engine.api import Bounds
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.narrow import widened
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ROWID_NAME, ColumnInfo


@dataclass(frozen=True, slots=True)
class Pushdown:
    """Operations of a scan; see the module docstring. A `limit` of 0 is none. Survives pickle."""

    filter: Term | None = None
    aggregation: Aggregation | None = None
    limit: int = 0
    order: tuple[SortKey, ...] = ()

    def __post_init__(self) -> None:
        """Raises `OptionError`: An aggregation is combined with a limit or an order."""
        if self.aggregation is not None and (self.limit or self.order):
            raise OptionError("limit", "a limit or an order cannot be combined with an aggregation")

    @property
    def more_columns(self) -> tuple[str, ...]:
        """Columns that it reads of each row that passes the filter."""
        if self.aggregation is not None:
            return self.aggregation.columns
        return distinct([key.column for key in self.order])

    @property
    def takes_dictionaries(self) -> bool:
        """Whether most rows are not returned, so that decoding dictionaries would be wasted."""
        return self.aggregation is not None or self.limit > 0

    def check(self, schema: pa.Schema) -> None:
        """Check that the operations are possible on rows of a schema.

        Raises:
            ColumnNotFoundError: A column is not in the schema.
            UnsupportedError: The result would not be exact.
        """
        if self.aggregation is not None:
            Folding(self.aggregation, schema)
        if self.order:
            check_order(schema, self.order, self.limit)

    def schema(self, schema: pa.Schema, shown: int | None) -> pa.Schema:
        """Return the result schema; `shown` is the number of returned columns, None: all."""
        if self.aggregation is not None:
            return Folding(self.aggregation, schema).schema
        return schema if shown is None else pa.schema(list(schema)[:shown])

    def of(
        self,
        batches: Iterable[pa.RecordBatch],
        schema: pa.Schema,
        shown: int | None,
        budget: Budget = DEFAULT_BUDGET,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the results for a region's rows that have passed the filter.

        Strings may be dictionaries where the schema has none, if `takes_dictionaries`.
        """
        if self.aggregation is not None:
            yield from Folding(self.aggregation, schema, budget).of(batches)
            return
        if self.order:
            batches = first_rows(batches, self.order, self.limit, schema, budget)
        elif self.limit:
            batches = limited(batches, self.limit, schema)
        for batch in batches:
            yield batch if shown is None else batch.select(list(range(shown)))


NOTHING: Final = Pushdown()


@dataclass(frozen=True, slots=True)
class Filter:
    """Filter of a table, with the columns that it reads. Survives pickle."""

    term: Term
    columns: tuple[ColumnInfo, ...]
    presentation: Presentation

    @classmethod
    def bound(
        cls, term: Term, columns: tuple[ColumnInfo, ...], presentation: Presentation
    ) -> "Filter":
        """Check the filter `term`, which reads `columns`.

        Raises:
            UnsupportedError: The result could differ from Spark's.
        """
        if ROWID_COLUMN in columns:
            raise UnsupportedError("a filter on this column", ROWID_NAME)
        empty = {c.name.lower(): pa.array([], presentation.type_of(c.type)) for c in columns}
        rows_for_which(term, Batch(empty, 0))
        return cls(term, columns, presentation)

    def rows(
        self,
        batch: pa.RecordBatch,
        among: Mask | None = None,
        budget: Budget = DEFAULT_BUDGET,
    ) -> Mask:
        """Return the rows, of those in `among`, of a stored batch for which the filter is true.

        Raises:
            UnrepresentableValueError: The scan cannot return a value.
            SqlOverflowError: A number does not fit its type.
            SqlMemoryError: The evaluation needs more memory than the budget.
        """
        try:
            shown = self._shown(batch, budget)
        except UnrepresentableValueError:
            if among is None or among.all():
                raise
            # The value may be in a row outside of `among`.
            mask = np.zeros(len(among), np.bool_)
            mask[among] = self.rows(filter_rows(batch, among), budget=budget)
            return mask
        return rows_for_which(self.term, shown, among)

    def possible(self, bounds: Bounds, budget: Budget = DEFAULT_BUDGET) -> Mask:
        """Return the parts of a table that may have rows for which the filter is true."""
        shown = [c for c in self.columns if not self.presentation.is_text(c.type)]
        by_name = {column.name.lower(): column for column in shown}

        def is_false(comparison: Term, name: str, values: pa.Array) -> Mask:
            column = by_name[name]
            values = shown_column(values, column, self.presentation)
            return truth(comparison, Batch({name: values}, len(values), budget)).false

        return PossibleParts(bounds.parts, ordered(bounds, shown), is_false).of(self.term)

    @property
    def sought(self) -> dict[ColumnID, list[int | str | bytes]]:
        """Integers or strings of which a column must equal one, by column id."""
        ids = {c.name.lower(): c.id for c in self.columns if self.presentation.keeps(c.type)}
        kinds = {LiteralKind.INT, LiteralKind.STRING, LiteralKind.BINARY}
        return {
            ids[name]: [each.value for each in literals]
            for name, literals in sought_values(self.term).items()
            if name in ids and all(each.kind in kinds for each in literals)
        }

    def _shown(self, batch: pa.RecordBatch, budget: Budget) -> Batch:
        shown = {
            c.name.lower(): shown_column(
                batch.column(column_name(c.id)), c, self.presentation, narrow=True
            )
            for c in self.columns
        }
        return Batch(shown, batch.num_rows, budget)


def shown_column(
    values: pa.Array, column: ColumnInfo, presentation: Presentation, *, narrow: bool = False
) -> pa.Array:
    """Convert a stored column to the returned form; dictionaries remain dictionaries.

    With `narrow`, decimals remain narrow (`tidb.codec.narrow`) unless they are returned as text.
    """
    if not narrow or presentation.is_text(column.type):
        values = widened(values, arrow_type(column.type))
    if not pa.types.is_dictionary(values.type):
        return presentation.apply(values, column.type, column.name)
    texts = presentation.apply(values.dictionary, column.type, column.name)
    return pa.DictionaryArray.from_arrays(values.indices, texts)
