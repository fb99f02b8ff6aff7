"""Folders of Dumpling."""

import tarfile
from pathlib import Path
from typing import Final

from pyarrow import fs

from pyspark_theflash.replication.base.dump import DumpBase, DumpOptions
from pyspark_theflash.replication.base.dump_folder import METADATA, DumpFolder, dump_ts
from pyspark_theflash.replication.base.dump_text import DumpFormat
from pyspark_theflash.replication.storage import Storage
from pyspark_theflash.tidb.schema.file import read_schema_file
from tests.fuzz.mutate import TEXT_WORDS, bytes_like
from tests.fuzz.run import Target

_FIXTURES: Final = Path(__file__).parents[2] / "fixtures/dumpling"
_WORDS: Final = (
    *TEXT_WORDS,
    *(b"',", b"),\n(", b");\n", b"x'", b"NULL", b"\\'", b"\\", b"''", b'"', b'",', b"\r\n", b"\\N"),
    *(b"INSERT INTO `types` ", b"VALUES\n", b"`", b"1e15", b"-"),
)


def _file(folder: Path, kind: str, form: DumpFormat) -> Target:
    """Rows of every type in a file, which is read in small pieces, and again from each place."""
    history = read_schema_file(_FIXTURES / "schema.json.gz")
    table = history.table_by_name("shop.types", history.start_ts)
    options = DumpOptions(form, "UTC")
    base = DumpBase(Storage(fs.LocalFileSystem(), str(folder), "dump"), options, piece_bytes=300)
    path = folder / f"shop.types.000000000.{kind.partition('-')[0]}"
    with tarfile.open(_FIXTURES / "dumps.tar.gz") as archive:
        member = archive.extractfile(f"{kind}/{path.name}")
        seed = member.read() if member is not None else b""
    path.write_bytes(seed)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        at = None
        for page in base.pages(table, None):
            at = page.at
        if at is not None:
            assert list(base.pages(table, at)) == []

    return Target([seed], bytes_like([seed, *seed.splitlines(keepends=True)], _WORDS), parse)


def dump_sql(folder: Path) -> Target:
    """INSERT statements of Dumpling."""
    return _file(folder, "sql", DumpFormat())


def dump_sql_without_escapes(folder: Path) -> Target:
    """INSERT statements of Dumpling with --escape-backslash=false."""
    return _file(folder, "sql-raw", DumpFormat(escape_backslash=False))


def dump_csv(folder: Path) -> Target:
    """CSV of Dumpling."""
    return _file(folder, "csv", DumpFormat())


def dump_metadata(folder: Path) -> Target:
    """The metadata of a dump, and a file name."""
    storage = Storage(fs.LocalFileSystem(), str(folder), "dump")
    with tarfile.open(_FIXTURES / "dumps.tar.gz") as archive:
        member = archive.extractfile(f"sql/{METADATA}")
        seed = member.read() if member is not None else b""
    names = (b"shop.t.0000000010001.sql.gz", b"a%2Eb.c%25.000000000.csv", b"d.t-schema.sql")

    def parse(data: bytes) -> None:
        (folder / METADATA).write_bytes(data)
        name = data[:80].decode(errors="replace").replace("/", "_").replace("\0", "_")
        path = folder / (name if name.strip(".") else "x")
        is_new = not path.exists() and len(path.name.encode()) < 255
        if is_new:
            path.touch()
        try:
            DumpFolder(storage)
        finally:
            if is_new:
                path.unlink()
        dump_ts(storage)

    return Target([seed], bytes_like([seed, *names], [*_WORDS, b".", b"%", b"-"]), parse)
