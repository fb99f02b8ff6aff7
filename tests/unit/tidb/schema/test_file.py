"""A schema file is read only if its content has changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyspark_theflash.base.errors import SchemaConflictError
from pyspark_theflash.base.types import Generation
from pyspark_theflash.storage.store.catalog import schema_history, schema_records
from pyspark_theflash.storage.store.manifest import View
from pyspark_theflash.testing.stores import id_column
from pyspark_theflash.tidb.schema import file as schema_file
from pyspark_theflash.tidb.schema.file import FileSchema
from pyspark_theflash.tidb.schema.history import SchemaHistory

TABLE = {
    "id": 7,
    "name": {"O": "t"},
    "cols": [id_column() | {"id": 1, "offset": 0}],
    "pk_is_handle": True,
}


def write(path: Path, end_ts: int, *changes: dict[str, Any]) -> None:
    document = {
        "start_ts": 100,
        "end_ts": end_ts,
        "initial": [{"ts": 100, "db": "d", "table": TABLE}],
        "changes": [
            {"kind": "table", "op": "put", "db": "d", "table_id": 7, **change} for change in changes
        ],
        "schema_versions": [],
    }
    path.write_text(json.dumps(document))


def stored(history: SchemaHistory) -> SchemaHistory:
    """The history as the next process reads it from the store."""
    records = schema_records(history)
    view = View(Generation(1), {"schema": {record.key: record.body for record in records}})
    decoded = schema_history(view)
    assert decoded is not None
    return decoded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "schema.json"
    write(made, 200)
    return made


def test_the_same_content_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = stored(FileSchema(path).read())
    copy = path.with_name("copy.json")
    copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(schema_file, "read_schema_file", None)
    for source in (FileSchema(path), FileSchema(copy)):
        assert source.read(history) is history
        assert source.read(history, 300) is history


def test_other_content_is_read(path: Path) -> None:
    history = stored(FileSchema(path).read())
    source = FileSchema(path)
    assert source.read(history) is history
    renamed = {**TABLE, "name": {"O": "u"}}
    write(path, 300, {"ts": 250, "table": renamed})
    for each in (source, FileSchema(path)):
        grown = each.read(history)
        assert [e.name for e in grown.listed_at(300)] == ["u"]
        assert stored(grown).source == grown.source != history.source
    write(path, 300, {"ts": 150, "table": renamed})
    with pytest.raises(SchemaConflictError):
        FileSchema(path).read(stored(grown))


def test_a_store_whose_history_names_no_content_learns_it(path: Path) -> None:
    """One of an earlier version, for instance."""
    current = FileSchema(path).read()
    before = SchemaHistory(current.start_ts, current.end_ts, current.events, current.versions)
    assert before.source is None
    after = FileSchema(path).read(stored(before))
    assert after.source == current.source
    assert [r.key for r in schema_records(after, before)] == ["span"]


def test_a_file_that_changes_while_it_is_read_names_no_content(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = schema_file.read_schema_file

    def read_late(*arguments: Any) -> SchemaHistory:
        write(path, 300)
        return read(*arguments)

    monkeypatch.setattr(schema_file, "read_schema_file", read_late)
    assert FileSchema(path).read().source is None
