import json

import pytest
from pyarrow import fs

from pyspark_theflash.base.errors import CodecError, CorruptionError, IncompleteFileError
from pyspark_theflash.replication.storage import Storage
from pyspark_theflash.replication.ticdc.sink import Sink, SinkDdl

VERSION = 441349361156227074
LINE = b'"I","t","d",441349361156227080,1,"a"\n'


@pytest.fixture
def sink(tmp_path):
    return Sink(Storage(fs.LocalFileSystem(), str(tmp_path), "file")), tmp_path


def schema(root, version=VERSION, query=""):
    path = root / "d" / "t" / "meta" / f"schema_{version}_0000000001.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [{"ColumnName": "id"}, {"ColumnName": "s"}]
    path.write_text(json.dumps({"Query": query, "TableColumns": columns}))


def write(root, content, number=1):
    path = root / "d" / "t" / str(VERSION) / "2022-01-02" / f"CDC{number:06d}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def parsed(sink):
    return [rows for file, size in sink.list_files() for rows in sink.parse(file, size)]


def test_rows_with_the_names_of_their_version(sink):
    reader, root = sink
    schema(root)
    write(root, LINE)
    (rows,) = parsed(reader)
    assert rows.names == ("id", "s")
    assert rows.file == f"d/t/{VERSION}/2022-01-02/CDC000001.csv"


def test_a_version_without_schema_file(sink):
    reader, root = sink
    schema(root, VERSION - 1)
    write(root, LINE)
    with pytest.raises(CodecError, match="no schema file of its version"):
        parsed(reader)


@pytest.mark.parametrize("content", [b"", LINE[:-1], LINE + LINE[:5], LINE[:-3] + b"\n"])
def test_incomplete_files(sink, content):
    """The last file of a series may be complete later, any other one is damaged."""
    reader, root = sink
    schema(root)
    write(root, content)
    with pytest.raises(IncompleteFileError) as incomplete:
        parsed(reader)
    assert incomplete.value.retryable
    write(root, LINE, number=2)
    with pytest.raises(CorruptionError, match="although TiCDC has written a newer file"):
        parsed(reader)
    write(root, LINE)
    assert len(parsed(reader)) == 2


def test_a_file_that_shrinks(sink):
    reader, root = sink
    schema(root)
    write(root, LINE + LINE)
    ((file, size),) = reader.list_files()
    write(root, LINE)
    with pytest.raises(IncompleteFileError):
        list(reader.parse(file, size))


def test_ddl(sink):
    reader, root = sink
    schema(root)
    schema(root, VERSION + 5, "ALTER TABLE t")
    schema(root, VERSION + 9, "x")
    reader.list_files()
    assert list(reader.ddls(VERSION, VERSION + 8)) == [SinkDdl("ALTER TABLE t", VERSION + 5)]
