"""A table that DuckDB reads as far as a query needs it.

DuckDB asks a pyarrow Dataset for columns and rows that it wants: `scanner(columns, filter)`. This
one passes the columns on to whoever has the rows, and applies the filter to what comes. (A Dataset
can be subclassed, though pyarrow does not say how; Lance does the same.)

The dataset's columns are called `c0`, `c1` ... in the order of the table's, so that those which a
filter reads can be told from its text; `view_of` gives them their names back. Before them stands
`ROWS`, which takes no room: a count asks for the first column, and needs none of the table's.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.dataset

from pyspark_theflash.base.errors import invariant
from pyspark_theflash.read.sql.connection import quoted

ROWS: Final = "rows"
_COLUMN: Final = re.compile(r"\bc\d+\b")


class SqlTable(Protocol):
    """Rows for DuckDB, in types that it has."""

    @property
    def schema(self) -> pa.Schema:
        """All columns. Strings may be dictionaries, which DuckDB keeps as such."""

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows with these columns in this order, in batches that know their number of rows.

        Called once for each time that a query reads the table, in DuckDB's threads.
        """


class Failures:
    """The errors that tables raised inside of DuckDB, which makes texts of them."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def add(self, error: Exception) -> None:
        """Remember an error."""
        self._errors.append(error)

    @property
    def first(self) -> Exception | None:
        """The error that came first."""
        return self._errors[0] if self._errors else None


class LazyTable(pyarrow.dataset.Dataset):  # type: ignore[misc]
    """See the module. Thread-safe as far as its table is."""

    def __init__(self, table: SqlTable, failures: Failures) -> None:
        # pyarrow's own constructor refuses; nothing of it is used.
        self._table, self._failures = table, failures
        fields = [pa.field(f"c{at}", f.type) for at, f in enumerate(table.schema)]
        self._schema = pa.schema([pa.field(ROWS, pa.bool_()), *fields])

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def scanner(
        self,
        columns: Sequence[str] | None = None,
        filter: Any = None,  # noqa: ANN401 (pyarrow's name for its expression)
        **_: object,
    ) -> "_Scanner":
        """What DuckDB calls: the rows for which `filter` holds, with `columns`."""
        wanted = self._schema.names if columns is None else list(columns)
        mentioned = [] if filter is None else _COLUMN.findall(str(filter))
        known = set(self._schema.names)
        read = list(dict.fromkeys([*wanted, *(name for name in mentioned if name in known)]))
        schema = pa.schema([self._schema.field(name) for name in wanted])
        return _Scanner(schema, self._batches(read, wanted, filter))

    def _batches(self, read: list[str], wanted: list[str], condition: Any) -> Iterator[Any]:  # noqa: ANN401 (pyarrow's expression)
        stored = [name for name in read if name != ROWS]
        names = self._table.schema.names
        try:
            for batch in self._table.read([names[int(name[1:])] for name in stored]):
                arrays = dict(zip(stored, batch.columns, strict=True))
                for name, values in arrays.items():
                    # DuckDB believes the schema, and reads other memory where it is wrong.
                    invariant(values.type == self._schema.field(name).type, f"type of {name}")
                arrays[ROWS] = pa.nulls(batch.num_rows, pa.bool_())
                if condition is None:
                    yield pa.RecordBatch.from_arrays([arrays[n] for n in wanted], names=wanted)
                else:
                    whole = pa.table([arrays[name] for name in read], names=read)
                    yield from whole.filter(condition).select(wanted).to_batches()
        except Exception as error:
            self._failures.add(error)
            raise


class _Scanner:
    """The one thing that DuckDB does with pyarrow's scanners."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._schema, self._batches = schema, batches

    def to_reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._batches)


def view_of(table: SqlTable, dataset: str) -> str:
    """The SELECT that gives the columns of a registered `LazyTable` their names."""
    names = [f"c{at} AS {quoted(name)}" for at, name in enumerate(table.schema.names)]
    return f"SELECT {', '.join(names or [ROWS])} FROM {quoted(dataset)}"  # noqa: S608 (names are quoted)
