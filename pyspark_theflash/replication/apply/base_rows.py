"""Load a base that is read in pieces: by SQL, or from the files of Dumpling.

    RowBase ─ pages ─► versions ─► Engine.publish with the place at which the table continues

The rows become versions committed at the start of the schema history, like those of a base folder.
A page is published together with the place after it, so a load that is killed continues there, and
no row is published twice. Nothing is readable before the writer's first progress.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.base import base_versions, load_base
from pyspark_theflash.replication.apply.stream_state import StreamState
from pyspark_theflash.storage.engine.api import Publication, WriterEngine
from pyspark_theflash.storage.store.base_load import (
    BASE_LOAD_KIND,
    TablePlace,
    places_of,
    plan_record,
    plan_source,
)
from pyspark_theflash.storage.store.coverage import BASE_KIND
from pyspark_theflash.storage.store.manifest import ManifestChange, Record
from pyspark_theflash.storage.store.progress import PROGRESS_KIND, Progress
from pyspark_theflash.storage.store.scope import tables_to_load
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo

_log = logging.getLogger(__name__)

COMPACT_PAGES: Final = 32
"""Pages of a table after which its files are merged."""


@dataclass(frozen=True, slots=True)
class BasePage:
    """Some rows of a table.

    Attributes:
        rows: stored columns by name, with `_tidb_rowid` if the table has it.
        at: the place after the rows.
        physical_id: the physical table of the rows; None if it is computed from them.
    """

    rows: pa.RecordBatch
    at: str
    physical_id: PhysicalTableID | None = None


class RowBase(Protocol):
    """A base that is read in pieces, in a fixed order.

    `source` identifies the base in the store, so that a load is continued from the same one.
    """

    @property
    def source(self) -> str: ...

    def open(self, history: SchemaHistory, tables: list[TableInfo]) -> None:
        """Prepare to read tables at the start of a history. Raises typed errors if it cannot."""

    def why_missing(self, table: TableInfo) -> str | None:
        """Return why the base cannot have the rows of a table; None if it has them."""

    def pages(self, table: TableInfo, at: str | None) -> Iterator[BasePage]:
        """Yield the rows of a table from a place on; None is its beginning."""


def load_any(engine: WriterEngine, base: Path | RowBase, state: StreamState) -> int:
    """Load a base, a folder or another; return the number of rows loaded by this call.

    Raises the errors of `load_base` or `load_rows`.
    """
    if isinstance(base, Path):
        return load_base(engine, base, state)
    return load_rows(engine, base, state)


def load_rows(engine: WriterEngine, base: RowBase, state: StreamState) -> int:
    """Load the tables that are not loaded yet; return the number of rows loaded by this call.

    Tables that the base cannot have are left out; reads of them raise `TableNotLoadedError`.

    Raises:
        OptionError: The store began with another base, or without one.
        The errors of the base.
    """
    history = state.history
    view = engine.read([BASE_KIND, BASE_LOAD_KIND, PROGRESS_KIND])
    loaded = {name.lower() for name in view.of_kind(BASE_KIND)}
    tables = [t for t in tables_to_load(history, state.scope) if t.full_name.lower() not in loaded]
    reasons = {table.id: base.why_missing(table) for table in tables}
    left_out = [(table.full_name, reasons[table.id]) for table in tables if reasons[table.id]]
    tables = [table for table in tables if reasons[table.id] is None]
    if Progress.of(view) is not None:
        if tables:
            reason = f"{tables[0].full_name} is not in the base that this store began with"
            raise OptionError("base", reason)
        return 0
    begun = plan_source(view)
    if begun != base.source and (begun is not None or loaded):
        raise OptionError("base", "this store began with another base; pass the same again")
    for full_name, why in left_out:
        _log.warning("%s is not loaded: it %s", full_name, why)
    base.open(history, [table for table in tables if table.is_public])
    if begun is None:
        records = [plan_record(base.source), *state.begin_records()]
        engine.publish(Publication((), ManifestChange(records)))
    places = places_of(view)
    return sum(_load(engine, base, table, state, places.get(table.id)) for table in tables)


def _load(
    engine: WriterEngine,
    base: RowBase,
    table: TableInfo,
    state: StreamState,
    place: TablePlace | None,
) -> int:
    """Load the rows of a table from a place on; return their number."""
    ts, before = state.history.start_ts, place.rows if place else 0
    rows = before
    touched: set[PhysicalTableID] = set()
    # Statements cannot name a table that is being created or dropped, and it has no visible rows.
    pages = base.pages(table, place.at if place else None) if table.is_public else iter(())
    for count, page in enumerate(pages, 1):
        rows += page.rows.num_rows
        place = TablePlace(table.id, page.at, rows)
        touched |= _publish(engine, table, page, ts, place)
        if count % COMPACT_PAGES == 0:
            _compact(engine, state, touched)
    _compact(engine, state, touched)
    ended = [(BASE_LOAD_KIND, place.key)] if place else []
    record = Record(
        BASE_KIND, table.full_name, json.dumps({"rows": rows, "source": base.source}).encode()
    )
    engine.publish(Publication((), ManifestChange([record], ended)))
    return rows - before


def _publish(
    engine: WriterEngine, table: TableInfo, page: BasePage, ts: TimeStamp, place: TablePlace
) -> set[PhysicalTableID]:
    physical = None
    if page.physical_id is not None:
        physical = np.full(page.rows.num_rows, page.physical_id, np.int64)
    versions = base_versions(table, page.rows, ts, physical) if page.rows.num_rows else ()
    engine.publish(Publication(list(versions), ManifestChange([place.to_record()])))
    return {each.physical_id for each in versions}


def _compact(engine: WriterEngine, state: StreamState, touched: set[PhysicalTableID]) -> None:
    for physical_id in sorted(touched):
        engine.compact(physical_id, state.columns.of(physical_id))
    touched.clear()
