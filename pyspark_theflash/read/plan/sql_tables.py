"""Tables of a snapshot for DuckDB.

DuckDB has a type for the returned form of most columns (`present.py`). It has no DECIMAL of more
than 38 digits: such columns get 38 digits, and values that need more raise.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import UnrepresentableValueError
from pyspark_theflash.read.present import Presentation
from pyspark_theflash.storage.mvcc.project import batch_of
from pyspark_theflash.tidb.codec.arrow import DECIMAL128_DIGITS

if TYPE_CHECKING:
    from pyspark_theflash.read.plan.snapshot import ReadSnapshot


class SnapshotTable:
    """Table of a snapshot; implements `read.sql.lazy.SqlTable`."""

    def __init__(self, snapshot: "ReadSnapshot", name: str, presentation: Presentation) -> None:
        """Plan the table. Raises like `ReadSnapshot.plan`."""
        self._snapshot, self._name, self._presentation = snapshot, name, presentation
        plan = snapshot.plan(name, None, presentation)
        self._dictionaries = snapshot.repeating(plan)
        schema = plan.with_dictionaries(self._dictionaries).schema
        self._schema = pa.schema([(field.name, sql_type(field.type)) for field in schema])

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        plan = self._snapshot.plan(self._name, columns, self._presentation)
        batches = self._snapshot.held(plan.with_dictionaries(self._dictionaries))
        return sql_batches(batches, self._schema, columns)


class SnapshotTables:
    """All tables of a snapshot; implements `read.sql.sql.Catalog`."""

    def __init__(self, snapshot: "ReadSnapshot", presentation: Presentation) -> None:
        self._snapshot, self._presentation = snapshot, presentation

    def names(self) -> Sequence[tuple[str, str]]:
        return [(event.db, event.name or "") for event in self._snapshot.listed()]

    def open(self, db: str, table: str) -> SnapshotTable:
        return SnapshotTable(self._snapshot, f"{db}.{table}", self._presentation)


def sql_type(tp: pa.DataType) -> pa.DataType:
    """Return the type that DuckDB gets for a column of `tp`."""
    return pa.decimal128(DECIMAL128_DIGITS, tp.scale) if pa.types.is_decimal256(tp) else tp


def sql_batches(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Cast batches of columns to their types in `schema`. Raises `UnrepresentableValueError`."""
    types = [schema.field(name).type for name in columns]
    for batch in batches:
        arrays = map(_cast, batch.columns, types, columns)
        yield batch_of(columns, list(arrays), batch.num_rows)


def _cast(values: pa.Array, tp: pa.DataType, name: str) -> pa.Array:
    """Cast to that type. Raises `UnrepresentableValueError`: A value has too many digits."""
    if values.type == tp:
        return values
    try:
        return pc.cast(values, tp)
    except pa.ArrowInvalid:
        # Not chained, because Arrow's message contains the value.
        raise UnrepresentableValueError(
            name, "a value", f"a DECIMAL of {tp.precision} digits"
        ) from None
