"""Files of a folder that Dumpling has written.

    metadata                     written last; Pos is the timestamp of the rows
    shop.t-schema.sql            CREATE TABLE
    shop.t.0000000010002.sql.gz  rows: chunk 1, file 2 of it (9 digits and 4, with -r and -F)
    shop.t.000000001.csv         rows: chunk 1 (with -r), or file 1 (with -F)

Special characters in names are %XX. A chunk without rows has no file, so numbers of chunks may be
missing, but not those of the files of a chunk. See pingcap/tidb, dumpling/export/prepare.go and
writer.go.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from pyspark_theflash.base.errors import CorruptionError, OptionError, UnsupportedError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.storage import Storage, StorageStream

METADATA: Final = "metadata"
_MOST_METADATA_BYTES: Final = 1 << 16
_MOST_SCHEMA_BYTES: Final = 1 << 24
_CODECS: Final = {"": None, ".gz": "gzip", ".zst": "zstd"}
_DATA: Final = re.compile(
    r"(?P<db>[^.]+)\.(?P<table>[^.]+)\.(?P<index>[0-9]+)"
    r"\.(?P<type>sql|csv|parquet)(?P<compressed>\.gz|\.zst|\.snappy|)"
)
_SCHEMA: Final = re.compile(
    r"(?P<db>[^.]+)\.(?P<table>[^.]+)-schema\.sql(?P<compressed>\.gz|\.zst|\.snappy|)"
)
_OTHER: Final = re.compile(
    r".*-(schema-(create|view|sequence|post|triggers)|placement-policy-create)\.sql(\.\w+)?"
)
_LOOKS_LIKE_DATA: Final = re.compile(r".*\.(sql|csv|parquet)(\.gz|\.zst|\.snappy|)")
_POSITION: Final = re.compile(r"\n\tLog: (?P<log>.*)\n\tPos: (?P<pos>.*)\n")
_CHUNK_DIGITS: Final = 9
_COLUMN: Final = re.compile(r"  `((?:[^`]|``)+)` ")


@dataclass(frozen=True, slots=True)
class DumpFile:
    """A file of rows."""

    path: str
    index: str
    type: str
    compressed: str

    @property
    def number(self) -> tuple[int, int]:
        """The numbers of the chunk and of its file."""
        return int(self.index[:_CHUNK_DIGITS]), int(self.index[_CHUNK_DIGITS:] or -1)


class DumpFolder:
    """Files of a dump, by table."""

    def __init__(self, storage: Storage) -> None:
        """List the files.

        Raises:
            ServiceUnavailableError: The storage does not answer.
            OptionError: A file's name is not of Dumpling's default template.
            CorruptionError: Files are missing, or of several dumps.
        """
        self._storage = storage
        self._files: dict[str, list[DumpFile]] = defaultdict(list)
        self._schemas: dict[str, str] = {}
        for path in sorted(storage.files(recursive=False)):
            if match := _DATA.fullmatch(path):
                file = DumpFile(path, match["index"], match["type"], match["compressed"])
                self._files[_table(match)].append(file)
            elif match := _SCHEMA.fullmatch(path):
                self._schemas[_table(match)] = path
            elif _LOOKS_LIKE_DATA.fullmatch(path) and not _OTHER.fullmatch(path):
                reason = (
                    f"{path[:200]!r} is not a name that Dumpling gives to a file: dump again "
                    "without --output-filename-template"
                )
                raise OptionError("base", reason)
        for files in self._files.values():
            files.sort(key=lambda file: file.number)
            self._check(files)

    def __contains__(self, table: str) -> bool:
        """Return whether a table was dumped."""
        return table.lower() in self._files or table.lower() in self._schemas

    def files(self, table: str) -> Sequence[DumpFile]:
        """Return the files of a table's rows, in order.

        Raises `UnsupportedError`: They are Parquet, or compressed by snappy.
        """
        files = self._files.get(table.lower(), [])
        for file in files:
            if file.type == "parquet" or file.compressed not in _CODECS:
                what = f"a dump with files of type {file.type}{file.compressed}"
                raise UnsupportedError(what, self.name(file.path))
        return files

    def open(self, file: DumpFile) -> StorageStream:
        """Open a file of rows. Raises `ServiceUnavailableError`."""
        return self._storage.open(file.path, _CODECS[file.compressed])

    def columns(self, table: str) -> Sequence[str] | None:
        """Return the names of a table's columns in its CREATE TABLE; None if there is none."""
        path = self._schemas.get(table.lower())
        match = _SCHEMA.fullmatch(path or "")
        if path is None or match is None or match["compressed"] not in _CODECS:
            return None
        stream = self._storage.open(path, _CODECS[match["compressed"]])
        try:
            lines = stream.read(_MOST_SCHEMA_BYTES).decode(errors="replace").split("\n")
        finally:
            stream.close()
        # A view has a CREATE TABLE, too; a comment may not have a line feed.
        columns = [_COLUMN.match(line) for line in lines]
        return [column[1].replace("``", "`") for column in columns if column is not None]

    def name(self, path: str) -> str:
        """Return the name of a file, for errors."""
        return f"{self._storage.url}/{path}"

    def _check(self, files: Sequence[DumpFile]) -> None:
        """Check that the files, in order, are complete as far as their names say."""
        previous = None
        for file in files:
            if (file.type, file.compressed) != (files[0].type, files[0].compressed) or (
                previous is not None and previous.number == file.number
            ):
                reason = f"and {files[0].path} are of two dumps"
                raise CorruptionError(self.name(file.path), 0, reason)
            chunk, number = file.number
            is_next = previous is not None and previous.number == (chunk, number - 1)
            if number > 0 and not is_next:
                reason = f"is number {number} of its chunk, but the file before it is missing"
                raise CorruptionError(self.name(file.path), 0, reason)
            previous = file


def dump_ts(storage: Storage) -> TimeStamp:
    """Return the timestamp of the rows.

    Raises:
        OptionError: The dump is not finished, or is not one of a TiDB at a timestamp.
        ServiceUnavailableError: The storage does not answer.
    """
    size = storage.size(METADATA)
    where = f"{storage.url}/{METADATA}"
    text = ""
    if size is not None:
        text = storage.read(METADATA, min(size, _MOST_METADATA_BYTES)).decode(errors="replace")
    if "\nFinished dump at: " not in text:
        reason = f"{where} does not say that Dumpling has finished: dump again"
        raise OptionError("base", reason)
    position = _POSITION.search(text)
    if position is None or position["log"] != "tidb-binlog":
        raise OptionError("base", f"{where} has no position of a TiDB")
    if not re.fullmatch(r"[0-9]{15,19}", position["pos"]):
        reason = f"Pos in {where} is not a TSO: dump without --snapshot, or with a TSO"
        raise OptionError("base", reason)
    return TimeStamp(int(position["pos"]))


def _table(match: "re.Match[str]") -> str:
    return f"{unquote(match['db'])}.{unquote(match['table'])}".lower()
