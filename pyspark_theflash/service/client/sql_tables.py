"""The tables of a store for SQL queries, which run in the client on the columns they need."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pyspark_theflash.read.plan.sql_tables import sql_batches, sql_type
from pyspark_theflash.service.client.theflash import TheFlash
from pyspark_theflash.service.wire.message import Moment, Presentation


class ServedTable:
    """A table of a snapshot; implements `read.sql.lazy.SqlTable`."""

    def __init__(
        self,
        store: TheFlash,
        name: str,
        moment: Moment,
        presentation: Presentation,
        columns: Sequence[str] | None = None,
    ) -> None:
        """Plan the table with these columns, or all. Raises like `TheFlash.plan`."""
        self._store, self._name = store, name
        self._moment, self._presentation = moment, presentation
        plan = store.plan(
            name, columns, moment=moment, presentation=presentation, dictionaries=True
        )
        fields = pa.ipc.read_schema(pa.py_buffer(plan.arrow_schema))
        self._schema = pa.schema([(field.name, sql_type(field.type)) for field in fields])

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        plan = self._store.plan(
            self._name, columns, moment=self._moment, presentation=self._presentation
        )
        types = [self._schema.field(name).type for name in columns]
        batches = self._store.read(plan, dictionaries=any(map(pa.types.is_dictionary, types)))
        return sql_batches(batches, self._schema, columns)


class ServedTables:
    """All tables of a snapshot; implements `read.sql.sql.Catalog`."""

    def __init__(self, store: TheFlash, handle: bytes, presentation: Presentation) -> None:
        self._store, self._moment = store, Moment(handle=handle)
        self._presentation = presentation

    def names(self) -> Sequence[tuple[str, str]]:
        tables = self._store.tables(self._moment).tables
        return [(table.db, table.name.removeprefix(f"{table.db}.")) for table in tables]

    def open(self, db: str, table: str) -> ServedTable:
        return ServedTable(self._store, f"{db}.{table}", self._moment, self._presentation)
