"""A base that is a folder of Dumpling: places, files, and what is refused."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from pyspark_theflash.base.errors import (
    CodecError,
    CorruptionError,
    OptionError,
    SchemaSourceError,
    ServiceUnavailableError,
    UnsupportedError,
)
from pyspark_theflash.replication.base import dump as dump_module
from pyspark_theflash.replication.base.dump import DumpBase, DumpOptions, open_dump
from pyspark_theflash.replication.base.dump_text import DumpFormat
from pyspark_theflash.replication.storage import Storage
from pyspark_theflash.testing.stores import id_column, table_info
from pyspark_theflash.tidb.schema.history import SchemaHistory
from tests.support.ticdc_tables import column, table_of

TS = 470677996545245206
HISTORY = SchemaHistory(TS, TS, [], [])
TABLE = table_info(7, "d.t", [id_column()])
PLACE = f"SHOW MASTER STATUS:\n\tLog: tidb-binlog\n\tPos: {TS}\n\tGTID:\n\n"
METADATA = f"Started dump at: 2026-11-24 04:06:27\n{PLACE}Finished dump at: 2026-11-24 04:06:28\n"
INSERT = (
    "/*!40014 SET FOREIGN_KEY_CHECKS=0*/;\n/*!40101 SET NAMES binary*/;\nINSERT INTO `t` VALUES\n"
)


def base(folder: Path, files: dict[str, str | bytes], *, piece_bytes: int = 50, **options):
    for name, content in ({"metadata": METADATA} | files).items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    storage = Storage(fs.LocalFileSystem(), str(folder), "dumps")
    return DumpBase(storage, DumpOptions(**options), piece_bytes=piece_bytes)


def sql(*statements: list[int]) -> str:
    bodies = [",\n".join(f"({n})" for n in numbers) for numbers in statements]
    return INSERT + ";\nINSERT INTO `t` VALUES\n".join(bodies) + ";\n"


def csv(numbers: list[int]) -> str:
    return '"id"\r\n' + "".join(f"{n}\r\n" for n in numbers)


def ids(pages) -> list[int]:
    return [n for page in pages for n in page.rows.column(0).to_pylist()]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["sql", "csv"])
def test_a_load_continues_at_every_place(kind, compressed, tmp_path):
    numbers = list(range(100, 400, 3))
    files = {}
    for index, part in ((0, numbers[:60]), (2, numbers[60:])):
        text = csv(part) if kind == "csv" else sql(part[:20], part[20:21], part[21:])
        data = gzip.compress(text.encode()) if compressed else text.encode()
        files[f"d.t.{index:09}.{kind}" + ".gz" * compressed] = data
    dump = base(tmp_path, files)
    dump.open(HISTORY, [TABLE])
    pages = list(dump.pages(TABLE, None))
    assert len(pages) > 8
    assert ids(pages) == numbers
    for number, page in enumerate(pages):
        assert ids(dump.pages(TABLE, page.at)) == ids(pages[number + 1 :])


def test_rows_longer_than_a_piece(tmp_path):
    table = table_of(column("id", "LONG"), column("s", "BLOB", charset="binary"), db="d")
    text = INSERT.replace("`t`", f"`{table.name}`") + f"(1,x'{'ab' * 5000}'),\n(2,NULL);\n"
    dump = base(tmp_path, {f"d.{table.name}.000000000.sql": text})
    rows = [row for page in dump.pages(table, None) for row in page.rows.to_pylist()]
    assert [row["s"] for row in rows] == [b"\xab" * 5000, None]


def test_a_row_of_unlimited_length(tmp_path, monkeypatch):
    monkeypatch.setattr(dump_module, "MOST_ROW_BYTES", 1000)
    form = DumpFormat(escape_backslash=False)
    dump = base(tmp_path, {"d.t.000000000.csv": '"id"\r\n"' + "\n" * 10_000}, form=form)
    with pytest.raises(CodecError, match=r"line 2.* is not a row"):
        list(dump.pages(TABLE, None))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sql", sql([1, 2])[:-2] + ",\n", "line 6: ends within a row of 1 columns"),
        ("sql", sql([1, 2])[:-2], "line 5: ends within"),
        ("sql", sql([1, 2]).replace("(2)", "(2,3)"), "line 5: is not a row of 1 columns"),
        ("sql", sql([1], [2]).replace("(1);\nI", "(1);\nX"), "line 5: is not a row"),
        ("sql", sql([1]).replace("`t`", "`u`"), "line 3: is not of this table"),
        ("sql", sql([1]).replace("40101", "40102"), "line 1: does not begin as a file of 1 col"),
        ("sql", sql([1]).replace("`t` ", "`t` (`no`) "), r"line 1: names other columns than \['id"),
        ("sql", sql([1]).replace("(1)", "('x')"), r"lines 3 to 4: a text is not a valid LONG"),
        ("csv", csv([1, 2]).replace("2", "2,3"), "line 3: is not a row of 1 columns"),
        ("csv", csv([1, 2])[:-2], "line 3: ends within a row of 1 columns in Dumpling's form of C"),
        ("csv", csv([1, 2])[6:], "line 1: names other columns than"),
        ("csv", csv([1]).replace("id", "id\0"), "line 1: does not begin"),
        ("csv", "\\N\r\n", "line 1: does not begin"),
    ],
)
def test_files_that_are_not_dumplings(name, text, message, tmp_path):
    dump = base(tmp_path, {f"d.t.000000000.{name}": text})
    with pytest.raises(CodecError, match=f"dumps/d.t.000000000.{name}, {message}|{message}"):
        list(dump.pages(TABLE, None))


def test_a_compressed_file_that_is_damaged(tmp_path):
    numbers = list(range(100))
    whole = gzip.compress(sql(numbers).encode())
    for damaged in (whole[:-20], whole[:30] + b"\0\0\0" + whole[33:], b"none"):
        dump = base(tmp_path, {"d.t.000000000.sql.gz": damaged})
        with pytest.raises(CorruptionError, match=r"dumps/d\.t\.000000000\.sql\.gz"):
            list(dump.pages(TABLE, None))


def test_a_table_without_rows(tmp_path):
    dump = base(tmp_path, {"d.t-schema.sql": "CREATE TABLE `t` (\n  `id` int\n);\n"})
    assert dump.why_missing(TABLE) is None
    dump.open(HISTORY, [TABLE])
    assert list(dump.pages(TABLE, None)) == []


def test_a_file_without_statements(tmp_path):
    dump = base(tmp_path, {"d.t.000000000.sql": "/*!40101 SET NAMES binary*/;\n"})
    assert list(dump.pages(TABLE, None)) == []
    assert list(base(tmp_path, {"d.t.000000000.sql": ""}).pages(TABLE, None)) == []


def test_tables_that_are_left_out(tmp_path):
    dump = base(tmp_path, {"d.other.000000000.sql": ""})
    assert dump.why_missing(TABLE) == "is not in the dump"
    keyless = table_info(8, "d.u", [id_column()], has_rowid=True)
    assert "no clustered primary key" in (dump.why_missing(keyless) or "")
    generated = replace(column("s", "LONG"), generated="`id` * 2", generated_stored=True)
    stored = table_of(column("id", "LONG"), generated, db="d")
    assert "stored generated column" in (dump.why_missing(stored) or "")


def test_another_schema(tmp_path):
    dump = base(tmp_path, {"d.t-schema.sql": "CREATE TABLE `t` (\n  `id` int,\n  `v` int\n);\n"})
    with pytest.raises(SchemaSourceError, match=r"columns \['id'\] in the schema, but \['id', 'v'"):
        dump.open(HISTORY, [TABLE])
    with pytest.raises(OptionError, match="but the schema begins at 9: dump again"):
        dump.open(SchemaHistory(9, 9, [], []), [TABLE])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (METADATA.partition("Finished")[0], "does not say that Dumpling has finished"),
        ("", "does not say that Dumpling has finished"),
        (METADATA.replace("tidb-binlog", "mysql-bin.000001"), "no position of a TiDB"),
        (METADATA.replace("Pos:", "At:"), "no position of a TiDB"),
        (METADATA.replace(str(TS), "2026-11-24 04:06:27"), "is not a TSO"),
    ],
)
def test_metadata(text, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        _ = base(tmp_path, {"metadata": text}).ts
    (tmp_path / "metadata").unlink()
    with pytest.raises(OptionError, match="has finished"):
        _ = DumpBase(Storage(fs.LocalFileSystem(), str(tmp_path), ""), DumpOptions()).ts


def test_names_of_files(tmp_path):
    """A chunk may have no file, but not a file of a chunk."""
    names = ("0000000010000", "0000000010001", "0000000030000")
    files = {f"d.t.{name}.csv": csv([number]) for number, name in enumerate(names)}
    assert ids(base(tmp_path, files).pages(TABLE, None)) == [0, 1, 2]
    (tmp_path / "d.t.0000000010000.csv").unlink()
    with pytest.raises(CorruptionError, match=r"0000000010001.csv: is number 1 of its chunk"):
        list(base(tmp_path, {}).pages(TABLE, None))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("d.t.000000000.sql", CorruptionError, "of two dumps"),
        ("d.t.000000001.csv.gz", CorruptionError, "of two dumps"),
        ("d-t.csv", OptionError, "'d-t.csv' is not a name that Dumpling gives"),
        ("d.u.000000000.parquet", UnsupportedError, "type parquet"),
        ("d.u.000000000.csv.snappy", UnsupportedError, "type csv.snappy"),
    ],
)
def test_other_files(name, error, message, tmp_path):
    dump = base(tmp_path, {"d.t.000000000.csv": csv([1]), name: ""})
    with pytest.raises(error, match=message):
        dump.open(HISTORY, [TABLE, table_info(8, "d.u", [id_column()])])


def test_schema_files_are_not_rows(tmp_path):
    names = ("d-schema-create.sql", "d.v-schema-view.sql", "d.s-schema-sequence.sql.gz")
    others = dict.fromkeys((*names, "p-placement-policy-create.sql", "log.txt"), "")
    assert ids(base(tmp_path, others | {"d.t.000000000.csv": csv([1])}).pages(TABLE, None)) == [1]


def test_a_file_that_was_removed(tmp_path):
    dump = base(tmp_path, {"d.t.000000000.csv": csv([1]), "d.t.000000001.csv": csv([2])})
    pages = list(dump.pages(TABLE, None))
    (tmp_path / "d.t.000000000.csv").unlink()
    with pytest.raises(OptionError, match="was read before, and is not there now"):
        list(base(tmp_path, {}).pages(TABLE, pages[0].at))
    with pytest.raises(ServiceUnavailableError):
        list(dump.pages(TABLE, None))
    with pytest.raises(CodecError):
        list(dump.pages(TABLE, "[1]"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("separator=x", "unknown 'separator'"),
        ("time-zone=Mars", "unknown time-zone"),
        ("no-header=yes", "no-header is none of true, false"),
        ("csv-separator=", "csv-separator is empty"),
        ("csv-separator=%22", "begins like csv-delimiter"),
        ("csv-separator=1", "csv-separator begins like a number"),
        ("csv-delimiter=%5C", "csv-delimiter begins like a number or an escape"),
        ("csv-delimiter=&escape-backslash=false", "must be one byte"),
        ("csv-delimiter=&csv-null-value=nil", "csv-null-value looks like a value"),
        ("csv-null-value=0", "csv-null-value looks like a value"),
        ("csv-output-dialect=mysql", "csv-output-dialect is none of"),
    ],
)
def test_options(query, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        open_dump(f"file://{tmp_path}?{query}")


def test_the_source_is_the_timestamp_and_the_options(tmp_path):
    dump = base(tmp_path, {})
    other = base(tmp_path, {}, time_zone="UTC")
    assert str(TS) in dump.source
    assert dump.source != other.source
