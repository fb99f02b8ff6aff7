"""Tables that DuckDB reads on demand.

DuckDB calls `scanner(columns, filter)` of a pyarrow Dataset for the columns and rows it needs. This
one passes the columns on to the table, and applies the filter to the batches. (pyarrow does not
document how to subclass Dataset; Lance does the same.)

The dataset's columns are named `c0`, `c1` ... in the order of the table's, so that those in a
filter can be found in its text; `view_of` restores the names. The first column, `ROWS`, has no
data: to count rows, DuckDB reads the first column only.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.dataset

from pyspark_theflash.base.errors import invariant

ROWS: Final = "rows"
_COLUMN: Final = re.compile(r"\bc\d+\b")


class SqlTable(Protocol):
    """Table with types that DuckDB supports."""

    @property
    def schema(self) -> pa.Schema:
        """All columns. DuckDB keeps dictionary-encoded strings as such."""

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows with these columns in this order.

        Batches without columns have a row count.

        Called once for each read of the table in a query, in DuckDB's threads.
        """


class LazyTable(pyarrow.dataset.Dataset):  # type: ignore[misc]
    """Dataset over a `SqlTable`; see the module docstring. Thread-safe if the table is."""

    def __init__(self, table: SqlTable, failures: list[Exception]) -> None:
        """`failures` collects the errors of the table, of which DuckDB passes on only the text."""
        # pyarrow's constructor always raises, and none of its state is used.
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
        """Return a scanner of the rows for which `filter` is true. Called by DuckDB."""
        output = self._schema.names if columns is None else list(columns)
        mentioned = [] if filter is None else _COLUMN.findall(str(filter))
        names = set(self._schema.names)
        read = list(dict.fromkeys([*output, *(name for name in mentioned if name in names)]))
        schema = pa.schema([self._schema.field(name) for name in output])
        return _Scanner(schema, self._batches(read, output, filter))

    def _batches(self, read: list[str], output: list[str], condition: Any) -> Iterator[Any]:  # noqa: ANN401 (pyarrow's expression)
        stored = [name for name in read if name != ROWS]
        names = self._table.schema.names
        try:
            for batch in self._table.read([names[int(name[1:])] for name in stored]):
                arrays = dict(zip(stored, batch.columns, strict=True))
                for name, values in arrays.items():
                    # DuckDB does not check types; a wrong one would read invalid memory.
                    invariant(values.type == self._schema.field(name).type, f"type of {name}")
                arrays[ROWS] = pa.nulls(batch.num_rows, pa.bool_())
                if condition is None:
                    yield pa.RecordBatch.from_arrays([arrays[n] for n in output], names=output)
                else:
                    whole = pa.table([arrays[name] for name in read], names=read)
                    yield from whole.filter(condition).select(output).to_batches()
        except Exception as error:
            self._failures.append(error)
            raise


class _Scanner:
    """The part of pyarrow's scanner interface that DuckDB uses."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._schema, self._batches = schema, batches

    def to_reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._batches)


def view_of(table: SqlTable, dataset: str) -> str:
    """Return the SELECT that restores the column names of a registered `LazyTable`."""
    names = [f"c{at} AS {quoted(name)}" for at, name in enumerate(table.schema.names)]
    return f"SELECT {', '.join(names or [ROWS])} FROM {quoted(dataset)}"  # noqa: S608 (names are quoted)


def quoted(identifier: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + identifier.replace('"', '""') + '"'
