"""Computing partial aggregates, region by region, and putting them together.

region 1 ──► DuckDB ──► partial ─┐
region 2 ──► DuckDB ──► partial ─┼─► merge ──► the aggregate
region 3 ──► DuckDB ──► partial ─┘
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.clock import Clock, SystemClock
from pyspark_theflash.errors import SqlOverflowError, invariant
from pyspark_theflash.query.aggregate import AggregateQuery, AggregateRequest
from pyspark_theflash.query.connection import Limits
from pyspark_theflash.query.lazy import SqlTable
from pyspark_theflash.query.session import BATCH_ROWS, Session

_REGION: Final = "region"
_PARTIALS: Final = "partials"


class PartialAggregation:
    """A request over tables of one schema. A context manager; one table at a time."""

    def __init__(
        self,
        request: AggregateRequest,
        schema: pa.Schema,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`schema` is that of the tables, with `duration` as int64.

        Raises:
            MissingExtraError: DuckDB is not installed.
            ColumnNotFoundError, UnsupportedError: the request cannot be answered exactly.
        """
        self._request, self._table_schema = request, schema
        self._query = AggregateQuery(request, schema)
        self._query.over("")
        with ExitStack() as resources:
            self._session = resources.enter_context(
                Session(limits or Limits(), clock or SystemClock())
            )
            self._resources = resources.pop_all()

    @property
    def schema(self) -> pa.Schema:
        """Of partials and of what they are merged to."""
        return pa.schema(list(zip(self._request.names, self._query.types, strict=True)))

    def of(self, table: SqlTable) -> Iterator[pa.RecordBatch]:
        """The partial of a table's rows.

        Raises:
            SqlError: a value or a sum that does not fit its type.
            SqlMemoryError: there are too many groups.
            TheFlashError: the table could not be read.
        """
        invariant(table.schema == self._table_schema, "a table of another schema")
        source = self._session.call(lambda: self._session.register(_REGION, table))
        try:
            # All of it, before any is handed out: what fails late is not to come twice.
            yield from list(self._answer(self._query.over(source), self._query.parameters))
        except SqlOverflowError:
            wide = self._query.over(source, wide=True)
            yield from self._answer(wide, self._query.parameters)

    def merge(self, partials: Iterable[pa.RecordBatch]) -> pa.Table:
        """The aggregate that partials of disjoint tables make. Raises what `of` does."""
        table = pa.Table.from_batches(partials, self.schema)
        self._session.connection.register(_PARTIALS, table)
        batches = self._answer(self._query.merging(_PARTIALS), [])
        return pa.Table.from_batches(batches, self.schema)

    def _answer(self, text: str, parameters: list[object]) -> Iterator[pa.RecordBatch]:
        def begin() -> pa.RecordBatchReader:
            relation = self._session.connection.sql(text, params=parameters or None)
            return relation.to_arrow_reader(BATCH_ROWS)

        schema = self.schema
        for batch in self._session.batches(self._session.call(begin)):
            arrays = [_exactly(v, f.type) for v, f in zip(batch.columns, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def __enter__(self) -> "PartialAggregation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()


def _exactly(values: pa.Array, tp: pa.DataType) -> pa.Array:
    """DuckDB's result in our type, which it is but for the digits that a decimal may have."""
    if values.type == tp:
        return values
    invariant(pa.types.is_decimal(tp) and values.type.scale == tp.scale, f"{values.type} for {tp}")
    return pc.cast(values, tp)
