"""Reading the rows of a storage sink's files."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pyspark_theflash.base.errors import CodecError, CorruptionError, IncompleteFileError
from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.storage import Storage
from pyspark_theflash.replication.ticdc.canal_json import parse_canal_json
from pyspark_theflash.replication.ticdc.csv_rows import parse_csv, parse_schema
from pyspark_theflash.replication.ticdc.layout import SinkFile, parse_data_file, parse_schema_file
from pyspark_theflash.replication.ticdc.rows import SinkRows
from pyspark_theflash.replication.ticdc.storage import checkpoint_ts
from pyspark_theflash.tidb.codec.document import load, shaped, text


@dataclass(frozen=True, slots=True)
class SinkDdl:
    """A DDL statement of the sink, committed at `ts`."""

    query: str
    ts: TimeStamp


class Sink:
    """The files of a storage sink, as of the last `list_files`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._sizes: Mapping[str, int] = {}
        self._last: dict[str, int] = {}
        self._schemas: dict[tuple[str, int], str] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._ddls: dict[str, SinkDdl] = {}

    def checkpoint_ts(self) -> TimeStamp | None:
        """Return the sink's checkpoint; see `checkpoint_ts`."""
        return checkpoint_ts(self._storage)

    def list_files(self) -> list[tuple[SinkFile, int]]:
        """Return the files of rows that exist now, with their sizes.

        Raises:
            ServiceUnavailableError: The storage does not answer.
            CodecError: The path of a file is of an unknown form.
        """
        self._sizes = self._storage.files()
        files, self._last, self._schemas = [], {}, {}
        for path, size in self._sizes.items():
            if (schema := parse_schema_file(path)) is not None:
                self._schemas[schema] = path
            elif (file := parse_data_file(path)) is not None:
                files.append((file, size))
                self._last[file.series] = max(file.number, self._last.get(file.series, 0))
        return files

    def parse(self, file: SinkFile, size: int) -> Iterator[SinkRows]:
        """Yield the rows in the first `size` bytes of a file.

        Raises:
            IncompleteFileError: It ends within a row.
            CorruptionError: It is not of the expected format.
            OptionError: A required option of the changefeed is missing.
            ServiceUnavailableError: The storage does not answer.
        """
        data = self._storage.read(file.path, size)
        self._check_complete(file, data, size)
        for rows in self._parsed(file, data):
            yield replace(rows, physical_id=file.physical_id, file=file.path)

    def ddls(self, low: TimeStamp, high: TimeStamp) -> Iterable[SinkDdl]:
        """Yield the DDL statements committed in (low, high].

        Raises:
            CodecError: A schema file is invalid.
            ServiceUnavailableError: The storage does not answer.
        """
        for (_, version), path in self._schemas.items():
            if not low < version <= high:
                continue
            if path not in self._ddls:
                with shaped(f"schema file {path}"):
                    query = text(load(self._read_whole(path))["Query"])
                self._ddls[path] = SinkDdl(query, TimeStamp(version))
            yield self._ddls[path]

    # --

    def _parsed(self, file: SinkFile, data: bytes) -> Iterator[SinkRows]:
        if not file.is_csv:
            return parse_canal_json(data, file.path)
        path = self._schemas.get((file.table, file.version))
        if path is None:
            raise CodecError(f"csv file {file.path}", "there is no schema file of its version")
        if path not in self._names:
            self._names[path] = parse_schema(self._read_whole(path), path)
        return parse_csv(data, file.path, self._names[path])

    def _read_whole(self, path: str) -> bytes:
        return self._storage.read(path, self._sizes[path])

    def _check_complete(self, file: SinkFile, data: bytes, size: int) -> None:
        is_whole = data.endswith(b"\n") and len(data) == size
        if is_whole and not (file.is_csv and data.count(b'"') % 2):
            return
        offset = data.rfind(b"\n") + 1
        if self._last.get(file.series, 0) > file.number:
            reason = "the last row is incomplete, although TiCDC has written a newer file"
            raise CorruptionError(file.path, offset, reason)
        raise IncompleteFileError(file.path, offset)
