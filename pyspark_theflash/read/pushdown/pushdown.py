"""What a scan does beside the data instead of handing out all rows.

    filter         rows for which it is true, told of the values that the scan hands out
    aggregation    instead of rows, what each region adds to it
    order, limit   the first rows of each region

Spark's rules are meant (`read.pushdown.predicate`, `read.pushdown.reduce`, `read.pushdown.top`),
unlike with a WHERE (`read.plan.condition`), which is TiDB's and comes first. A value that cannot be
handed out cannot be compared either: it raises as if it were read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.errors import (
    OptionError,
    UnrepresentableValueError,
    UnsupportedError,
)
from pyspark_theflash.read.present import Presentation
from pyspark_theflash.read.pushdown.fold import Folding
from pyspark_theflash.read.pushdown.predicate import rows_for_which
from pyspark_theflash.read.pushdown.term import Aggregation, SortKey, Term, column_names, distinct
from pyspark_theflash.read.pushdown.top import check_order, first_rows, limited
from pyspark_theflash.read.pushdown.value import Batch, Mask
from pyspark_theflash.storage.mvcc.filter import filter_rows
from pyspark_theflash.storage.mvcc.version import column_name
from pyspark_theflash.tidb.codec.arrow import arrow_type
from pyspark_theflash.tidb.codec.narrow import widened
from pyspark_theflash.tidb.schema.model import ROWID_COLUMN, ROWID_NAME, ColumnInfo


@dataclass(frozen=True, slots=True)
class Pushdown:
    """See the module. A `limit` of 0 is none. Survives pickle."""

    filter: Term | None = None
    aggregation: Aggregation | None = None
    limit: int = 0
    order: tuple[SortKey, ...] = ()

    def __post_init__(self) -> None:
        """Raises `OptionError`: these do not go together."""
        if self.aggregation is not None and (self.limit or self.order):
            raise OptionError("limit", "neither it nor an order goes with an aggregation")

    @property
    def more_columns(self) -> tuple[str, ...]:
        """Names of the columns that it reads of each row that passes the filter."""
        if self.aggregation is not None:
            return self.aggregation.columns
        return distinct([key.column for key in self.order])

    @property
    def takes_dictionaries(self) -> bool:
        """Whether most rows stay where they are, so that there is no use in decoding them."""
        return self.aggregation is not None or self.limit > 0

    def check(self, schema: pa.Schema) -> None:
        """Return if rows of this schema can be told so.

        Raises:
            ColumnNotFoundError: it names a column that there is not.
            UnsupportedError: it would not be exact.
        """
        if self.aggregation is not None:
            Folding(self.aggregation, schema)
        if self.order:
            check_order(schema, self.order, self.limit)

    def schema(self, schema: pa.Schema, shown: int | None) -> pa.Schema:
        """Of what comes of rows of this schema, of whose columns so many are asked for."""
        if self.aggregation is not None:
            return Folding(self.aggregation, schema).schema
        return schema if shown is None else pa.schema(list(schema)[:shown])

    def of(
        self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, shown: int | None
    ) -> Iterator[pa.RecordBatch]:
        """What comes of a region's rows that have passed the filter.

        Strings may be dictionaries where the schema has none, if `takes_dictionaries`.
        """
        if self.aggregation is not None:
            yield from Folding(self.aggregation, schema).of(batches)
            return
        if self.order:
            batches = first_rows(batches, self.order, self.limit, schema)
        elif self.limit:
            batches = limited(batches, self.limit, schema)
        for batch in batches:
            yield batch if shown is None else batch.select(list(range(shown)))


NOTHING: Final = Pushdown()


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of a table, with the columns that it reads; survives pickle."""

    term: Term
    columns: tuple[ColumnInfo, ...]
    presentation: Presentation

    @classmethod
    def bound(
        cls, term: Term, columns: tuple[ColumnInfo, ...], presentation: Presentation
    ) -> "Filter":
        """The filter `term`, which reads these columns.

        Raises:
            UnsupportedError: what is true could not be told exactly.
        """
        if ROWID_COLUMN in columns:
            raise UnsupportedError("a filter on it", ROWID_NAME)
        known = {c.name.lower(): pa.array([], presentation.type_of(c.type)) for c in columns}
        rows_for_which(term, Batch(known, 0))
        return cls(term, columns, presentation)

    def rows(self, batch: pa.RecordBatch, among: Mask | None = None) -> Mask:
        """The rows, of those `among`, of a batch with the stored columns for which it is true.

        Raises:
            UnrepresentableValueError: a value that the scan cannot hand out.
            SqlOverflowError: a number in it that does not fit its type.
        """
        try:
            shown = self._shown(batch)
        except UnrepresentableValueError:
            if among is None or among.all():
                raise
            # It may be of one of the other rows.
            found = np.zeros(len(among), np.bool_)
            found[among] = self.rows(filter_rows(batch, among))
            return found
        return rows_for_which(self.term, shown, among)

    def _shown(self, batch: pa.RecordBatch) -> Batch:
        shown = {
            c.name.lower(): shown_column(
                batch.column(column_name(c.id)), c, self.presentation, narrow=True
            )
            for c in self.columns
        }
        return Batch(shown, batch.num_rows)


def filter_names(term: Term) -> tuple[str, ...]:
    """The columns that a filter reads, each once."""
    return distinct(list(column_names(term)))


def shown_column(
    values: pa.Array, column: ColumnInfo, presentation: Presentation, *, narrow: bool = False
) -> pa.Array:
    """A stored column, dictionary or not, as it is handed out; dictionaries stay such.

    `narrow`: narrow decimals stay such, too (`tidb.codec.narrow`), if decimals are handed out.
    """
    if not narrow or presentation.is_text(column.type):
        values = widened(values, arrow_type(column.type))
    if not pa.types.is_dictionary(values.type):
        return presentation.apply(values, column.type, column.name)
    texts = presentation.apply(values.dictionary, column.type, column.name)
    return pa.DictionaryArray.from_arrays(values.indices, texts)
