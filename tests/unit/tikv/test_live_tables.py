"""Captured tables with all types and kinds of keys, compared with TiDB's SELECT."""

from collections import Counter
from typing import Any

import pytest

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.read.present import TEXT
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.schema.history import SchemaHistory, TableEvent
from pyspark_theflash.tidb.schema.model import ROWID_NAME, TableInfo, parse_table_info
from pyspark_theflash.tikv.flush import FlushLimits
from pyspark_theflash.tikv.read import open_tables
from tests.support.golden_vectors import live_tables
from tests.support.learning import Learning
from tests.support.percolator_records import write_record
from tests.support.raft_tikv import Change, FakeRaftCluster, at_ts, encoded
from tests.support.table_rows import unresolved

TS = TimeStamp(50)


def _changes(captured: dict[str, Any]) -> list[Change]:
    """Return all records and index entries as committed changes."""
    changes: list[Change] = []
    for pair in [*captured["records"], *captured["index_kvs"]]:
        raw, value = map(bytes.fromhex, pair)
        key, short = encoded(raw), value
        if len(value) > 255:
            changes.append(("default", at_ts(key, 9), value))
            short = None
        changes.append(("write", at_ts(key, 10), write_record("P", 9, short_value=short)))
    return changes


def _shown(learning: Learning, table: TableInfo, names: list[str]) -> Counter[tuple[Any, ...]]:
    """Return the rows in TiDB's text format."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for view in open_tables(learning.learner.store, table.physical_ids, TS):
        for each in learning.read(table, view, unresolved):
            columns = dict(
                zip([c.name for c in table.public_columns], table.public_columns, strict=True)
            )
            arrays = dict(zip(columns, each.drop_columns([HANDLE]).columns, strict=True))
            texts = {n: TEXT.apply(v, columns[n].type, n).to_pylist() for n, v in arrays.items()}
            texts[ROWID_NAME] = [str(handle) for handle in each.column(HANDLE).to_pylist()]
            counts.update(zip(*(texts[name] for name in names), strict=True))
    return counts


def _as_shown(text: Any, field_type: FieldType | None) -> str | bytes | None:
    """Decode a captured cell; bytes if the column has bytes."""
    if text is None or field_type is None:
        return text if text is None else str(text)
    is_bytes = field_type.is_binary_string or field_type.tp == MySQLType.BIT
    raw = bytes.fromhex(text["hex"]) if isinstance(text, dict) else str(text).encode()
    return raw if is_bytes else raw.decode()


@pytest.mark.parametrize("captured", live_tables(), ids=lambda t: f"{t['table']}-{t['kind']}")
def test_what_select_shows(captured: dict[str, Any]) -> None:
    table = parse_table_info(captured["db"], captured["table_info"])
    event = TableEvent(TimeStamp(1), table.db, table.id, table)
    history = SchemaHistory(TimeStamp(1), TimeStamp(100), [event], ())
    learning = Learning(FakeRaftCluster(), history, None, FlushLimits())
    learning.tikv.write(_changes(captured))
    learning.send(entry for _, _, entry in learning.tikv.log)
    by_name = {column.name: column.type for column in table.columns}
    types = [by_name.get(name) for name in captured["select_cols"]]
    expected = Counter(tuple(map(_as_shown, row, types)) for row in captured["rows"])
    assert _shown(learning, table, captured["select_cols"]) == expected
    learning.learner.flush()
    assert _shown(learning, table, captured["select_cols"]) == expected
    learning.close()
