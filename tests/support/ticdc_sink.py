"""Folders as TiCDC's storage sink writes them, made of the versions in captured workloads.

The rows are those that a binlog writer publishes, without the ones that it derives itself: rows of
a base, and rows that REORGANIZE PARTITION copies. Their texts and files are made here, by TiCDC's
documents and not with the code that reads them, except for the text forms of times, decimals and
JSON, which `test_text` compares with TiDB's.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.replication.apply.tables import PhysicalTables
from pyspark_theflash.storage.engine.api import Publication, VersionBatch
from pyspark_theflash.storage.mvcc.rows import stored_columns, with_defaults
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, START_TS, Op, column_id
from pyspark_theflash.testing.memory import MemoryEngine
from pyspark_theflash.tidb.codec.field_type import STRING_TYPES, FieldType, MySQLType
from pyspark_theflash.tidb.codec.text import format_column
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.model import TableInfo
from tests.support.workloads import Workload, replicate

_FLOATS = {MySQLType.FLOAT: np.float32, MySQLType.DOUBLE: np.float64}


class RecordingEngine(MemoryEngine):
    """An engine that collects publications."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[VersionBatch] = []

    def publish(self, publication: Publication) -> Any:
        self.published += publication.versions
        return super().publish(publication)


@dataclass(frozen=True)
class SinkRow:
    """One row change. `texts` are those of canal-json, `fields` those of csv, by column name."""

    table: TableInfo
    version: int
    physical_id: int
    commit_ts: int
    type: str
    texts: dict[str, str | None]
    fields: dict[str, str]


_Change = tuple[int, bool, Any, bool, SinkRow]
"""commit_ts, whether it is a put, handle, whether TiCDC sends it, and the row."""


def sink_rows(chosen: Workload) -> list[SinkRow]:
    """The rows that TiCDC would send of a workload, by commit_ts."""
    engine = RecordingEngine()
    history = replicate(chosen, engine).state.history
    return rows_of(history, engine.published)


def rows_of(history: SchemaHistory, published: Iterable[VersionBatch]) -> list[SinkRow]:
    """The rows of published versions."""
    tables = PhysicalTables(history)
    changes: list[_Change] = []
    for versions in published:
        batch = versions.batch
        commit_ts = batch.column(COMMIT_TS).to_numpy()
        for table, places in tables.definitions(versions.physical_id, commit_ts):
            part = batch.take(pa.array(places))
            changes += _changes(history, table, versions.physical_id, part)
    return list(_with_old_values(sorted(changes, key=lambda change: change[:2])))


def _changes(
    history: SchemaHistory, table: TableInfo, physical_id: int, batch: pa.RecordBatch
) -> Iterator[_Change]:
    columns = {
        column_id(name): batch.column(name)
        for name in batch.schema.names
        if name not in (HANDLE, COMMIT_TS, START_TS, OP)
    }
    infos = [c for c in stored_columns(table) if c.is_public]
    whole = with_defaults(table, infos, columns, batch.num_rows)
    names = [c.name for c in infos]
    texts = [canal_texts(whole[c.id], c.type).to_pylist() for c in infos]
    fields = [csv_fields(whole[c.id], c.type) for c in infos]
    system = (batch.column(name).to_pylist() for name in (HANDLE, COMMIT_TS, START_TS, OP))
    for n, (handle, commit_ts, start_ts, op) in enumerate(zip(*system, strict=True)):
        events = history.events_until(table.id, commit_ts)
        row = SinkRow(
            table,
            events[-1].ts if events else history.start_ts,
            physical_id,
            commit_ts,
            "INSERT" if op == Op.PUT else "DELETE",
            dict(zip(names, (column[n] for column in texts), strict=True)),
            dict(zip(names, (column[n] for column in fields), strict=True)),
        )
        # TiCDC skips rows that are committed after TRUNCATE to the table before it, and rows that
        # are copied or written again to the partitions that REORGANIZE fills.
        owner = events[-1].table if events else table
        is_live = owner is not None and physical_id in owner.physical_ids
        yield commit_ts, op == Op.PUT, handle, is_live and start_ts != commit_ts, row


def _with_old_values(changes: Iterable[_Change]) -> Iterator[SinkRow]:
    """A delete has the key of the old row, and a put of an existing row is an update."""
    rows: dict[tuple[int, Any], SinkRow] = {}
    for _, is_put, handle, is_sent, row in changes:
        before = rows.pop((row.physical_id, handle), None)
        if is_put:
            rows[row.physical_id, handle] = row
            row = replace(row, type="INSERT" if before is None else "UPDATE")
        elif before is None:
            continue
        else:
            keys = {column.name for column in row.table.handle_columns}
            shown = keys or row.texts.keys()
            row = replace(
                row,
                texts={n: before.texts.get(n) for n in row.texts if n in shown},
                fields={n: before.fields[n] if n in keys else "\\N" for n in row.fields},
            )
        if is_sent:
            yield row


def canal_texts(values: pa.Array, field_type: FieldType) -> pa.Array:
    """The texts of canal-json."""
    tp = field_type.tp
    if tp in (MySQLType.BIT, MySQLType.ENUM, MySQLType.SET):
        return pc.cast(values, pa.string())
    if field_type.is_binary_string:
        texts = (None if v is None else v.decode("latin1") for v in values.to_pylist())
        return pa.array(list(texts), pa.string())
    if tp in _FLOATS:
        return pa.array([_positional(v, tp) for v in values.to_pylist()], pa.string())
    return format_column(values, field_type)


def csv_fields(values: pa.Array, field_type: FieldType) -> list[str]:
    """The fields of csv."""
    tp = field_type.tp
    if field_type.is_binary_string:
        encoded = [None if v is None else base64.b64encode(v).decode() for v in values.to_pylist()]
        return [_quoted(text) for text in encoded]
    if tp in _FLOATS:
        return ["\\N" if v is None else _general(v, tp) for v in values.to_pylist()]
    if tp in (MySQLType.ENUM, MySQLType.SET):
        return [_quoted(text) for text in format_column(values, field_type).to_pylist()]
    texts = canal_texts(values, field_type).to_pylist()
    if tp == MySQLType.BIT or pa.types.is_integer(values.type):
        return ["\\N" if text is None else text for text in texts]
    return [_quoted(text) for text in texts]


def _quoted(text: str | None) -> str:
    return "\\N" if text is None else '"' + text.replace('"', '""') + '"'


def _positional(value: float | None, tp: MySQLType) -> str | None:
    """Go's format 'f' with the fewest digits."""
    return None if value is None else np.format_float_positional(_FLOATS[tp](value), trim="-")


def _general(value: float, tp: MySQLType) -> str:
    """Go's %v: an exponent below 1e-4 and from 1e21 on."""
    if value and not 1e-4 <= abs(value) < 1e21:
        return np.format_float_scientific(_FLOATS[tp](value), trim="-", exp_digits=2)
    return np.format_float_positional(_FLOATS[tp](value), trim="-")


@dataclass
class SinkFolder:
    """A folder that a changefeed writes to. Without `dispatchers`, file names have none."""

    root: Path
    is_csv: bool = False
    date: str = "%Y-%m-%d"
    dispatchers: int = 0
    has_partitions: bool = True
    by_id: bool = False
    has_header: bool = False
    has_old_values: bool = False
    terminator: str = "\r\n"
    _numbers: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def write(self, rows: Sequence[SinkRow], restarts: int = 0) -> list[Path]:
        """Write rows to new files, index first; a row's dispatcher depends on its place.

        The versions of tables are those after a number of restarts of the changefeed.
        """
        rows = [replace(row, version=row.version + restarts) for row in rows]
        groups: dict[tuple[str, str], list[SinkRow]] = defaultdict(list)
        for place, row in enumerate(rows):
            dispatcher = f"d-{place % self.dispatchers}" if self.dispatchers else ""
            groups[self._folder(row), dispatcher].append(row)
        return [self._write(*key, group) for key, group in groups.items()]

    def checkpoint(self, ts: int) -> None:
        """Write the metadata."""
        (self.root / "metadata").write_text(json.dumps({"checkpoint-ts": ts}))

    def schema(self, table: TableInfo, version: int, query: str = "") -> None:
        """Write a table's schema file, once."""
        columns = [
            {"ColumnName": c.name, "ColumnType": c.type.tp.name} for c in table.public_columns
        ]
        document = {
            "Table": table.name,
            "Schema": table.db,
            "Version": 1,
            "TableVersion": version,
            "Query": query,
            "Type": 0,
            "TableColumns": columns,
            "TableColumnsTotal": len(columns),
        }
        path = self.root / self._table(table, table.id) / "meta"
        path.mkdir(parents=True, exist_ok=True)
        (path / f"schema_{version}_{table.id:010d}.json").write_text(json.dumps(document, indent=4))

    def _table(self, table: TableInfo, physical_id: int) -> str:
        return str(physical_id) if self.by_id else f"{table.db}/{table.name}"

    def _folder(self, row: SinkRow) -> str:
        parts = [self._table(row.table, row.physical_id), str(row.version)]
        if row.table.partition is not None and self.has_partitions and not self.by_id:
            parts.append(str(row.physical_id))
        if self.date:
            at = datetime.fromtimestamp((row.commit_ts >> 18) / 1000, timezone.utc)
            parts.append(at.strftime(self.date))
        return "/".join(parts)

    def _write(self, folder: str, dispatcher: str, rows: Sequence[SinkRow]) -> Path:
        path = self.root / folder
        (path / "meta").mkdir(parents=True, exist_ok=True)
        infix = f"_{dispatcher}_" if dispatcher else ""
        self._numbers[folder + infix] += 1
        name = f"CDC{infix}{self._numbers[folder + infix]:06d}.{'csv' if self.is_csv else 'json'}"
        index = f"CDC_{dispatcher}.index" if dispatcher else "CDC.index"
        (path / "meta" / index).write_text(name + "\n")
        table = rows[0].table
        for each in {row.physical_id for row in rows} if self.by_id else {table.id}:
            self.schema(replace(table, id=each), rows[0].version)  # type: ignore[arg-type]
        lines = [line for row in rows for line in self._lines(row)]
        header = [self._header(table)] if self.is_csv and self.has_header else []
        (path / name).write_text(
            "".join(line + self.terminator for line in [*header, *lines]), newline=""
        )
        return path / name

    def _lines(self, row: SinkRow) -> Iterator[str]:
        if not self.is_csv:
            yield canal_message(row)
            return
        names = [c.name for c in row.table.public_columns if c.name in row.fields]
        values = [row.fields[name] for name in names]
        types = ["D", "I"] if row.type == "UPDATE" and self.has_old_values else [row.type[0]]
        for type in types:
            is_update = ["true" if row.type == "UPDATE" else "false"] * self.has_old_values
            meta = [_quoted(type), _quoted(row.table.name), _quoted(row.table.db)]
            yield ",".join([*meta, str(row.commit_ts), *is_update, *values])

    def _header(self, table: TableInfo) -> str:
        names = ["operation", "table", "schema", "commit-ts"]
        names += ["is-update"] * self.has_old_values
        columns = [c.name for c in table.public_columns if not c.is_virtual]
        return ",".join([*(f"ticdc-meta${name}" for name in names), *columns])


def canal_message(row: SinkRow) -> str:
    """A message of canal-json."""
    types = {c.name: c.type for c in row.table.columns}
    message = {
        "id": 0,
        "database": row.table.db,
        "table": row.table.name,
        "pkNames": [c.name for c in row.table.handle_columns],
        "isDdl": False,
        "type": row.type,
        "es": row.commit_ts >> 18,
        "ts": 1795247190563,
        "sql": "",
        "sqlType": {name: _sql_type(types[name]) for name in row.texts},
        "mysqlType": {name: types[name].tp.name.lower() for name in row.texts},
        "old": [row.texts] if row.type == "UPDATE" else None,
        "data": [row.texts],
        "_tidb": {"commitTs": row.commit_ts},
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def _sql_type(field_type: FieldType) -> int:
    if field_type.tp in STRING_TYPES:
        return 2004 if field_type.is_binary_string else 12
    return -5
