"""Tables of a schema history."""

from collections.abc import Sequence

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.tidb.schema.history import SYSTEM_DATABASES, SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo


def tables_at(history: SchemaHistory, ts: TimeStamp) -> Sequence[TableInfo]:
    """Return the tables that statements can name at `ts`, by full name, without system tables."""
    states = {event.table_id: event.table for event in history.until(ts)}
    tables = (t for t in states.values() if t and t.is_public and t.db not in SYSTEM_DATABASES)
    return sorted(tables, key=lambda t: t.full_name)
