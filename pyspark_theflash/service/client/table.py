"""A table of a store as a lazy stream of Arrow, which pyarrow, pandas, Polars and DuckDB read.

    orders = connect("/data/store").table("shop.orders").at("2026-11-21T09:05:30Z")
    orders.to_arrow()
    polars.DataFrame(orders.select("id", "total"))
    duckdb.sql("SELECT sum(total) FROM orders")

Nothing is read before a consumer asks for it, and each consumer reads again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from pyspark_theflash.base.read_options import timestamp_option
from pyspark_theflash.base.timestamp import AnyTimestamp
from pyspark_theflash.service.wire import message

if TYPE_CHECKING:
    from pyspark_theflash.service.client.theflash import TheFlash

_NEWEST: Final = message.Moment()
_NATIVE: Final = message.Presentation()


@dataclass(frozen=True, slots=True, repr=False)
class TableStream:
    """The rows of a table. It has the Arrow PyCapsule interface (`__arrow_c_stream__`).

    Without `at`, each read is at the newest timestamp that can be read then.
    """

    store: "TheFlash"
    name: str
    moment: message.Moment = _NEWEST
    presentation: message.Presentation = _NATIVE
    columns: tuple[str, ...] | None = None
    condition: str = ""

    def at(self, moment: message.Moment | AnyTimestamp) -> "TableStream":
        """Return the table at a timestamp.

        Args:
            moment: A TSO as a number or text, a time with its zone as text, or a `datetime` with a
                time zone; or a `Moment`.

        Raises:
            OptionError: It is not a timestamp.
        """
        if not isinstance(moment, message.Moment):
            moment = message.Moment(timestamp_option("snapshot_ts", moment))
        return replace(self, moment=moment)

    def select(self, *columns: str) -> "TableStream":
        """Return the table with these columns only, in this order."""
        return replace(self, columns=columns)

    def where(self, condition: str) -> "TableStream":
        """Return the rows for which a condition in TiDB's SQL is true; it replaces another one."""
        return replace(self, condition=condition)

    @property
    def schema(self) -> pa.Schema:
        """The columns, which are looked up in the store."""
        plan = self._plan()
        self.store.release(plan.snapshot)
        return _schema(plan)

    def to_reader(self) -> pa.RecordBatchReader:
        """Return a reader of the rows, which are read as it is consumed. Errors keep their type.

        Raises:
            TheFlashError: The table cannot be read at the timestamp; see `TheFlash.plan`.
        """
        plan = self._plan()
        rows = self._rows(plan)
        next(rows)  # so that the latch ends with the reader, even if nothing is read
        return pa.RecordBatchReader.from_batches(_schema(plan), rows)

    def to_arrow(self) -> pa.Table:
        """Return all rows. Raises like `to_reader`."""
        return self.to_reader().read_all()

    def to_pandas(self) -> Any:  # noqa: ANN401 (a pandas.DataFrame)
        """Return all rows as a DataFrame of pandas. Raises like `to_reader`."""
        return self.to_arrow().to_pandas()

    def __arrow_c_schema__(self) -> Any:  # noqa: ANN401 (a PyCapsule)
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:  # noqa: ANN401 (PyCapsules)
        """Export the rows as a C stream, which passes on only the text of errors."""
        return self.to_reader().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        ts = self.moment.snapshot_ts
        return f"<table {self.name} at {'the newest' if ts is None else ts} of {self.store!r}>"

    def _plan(self) -> message.Plan:
        return self.store.plan(
            self.name,
            self.columns,
            moment=self.moment,
            where=self.condition,
            presentation=self.presentation,
        )

    def _rows(self, plan: message.Plan) -> Iterator[pa.RecordBatch | None]:
        """Yield None and then the rows; end the latch of the plan."""
        try:
            yield None
            yield from self.store.read(plan)
        finally:
            self.store.release(plan.snapshot)


def _schema(plan: message.Plan) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
