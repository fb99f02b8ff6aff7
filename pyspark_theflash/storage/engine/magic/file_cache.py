"""Cache of data files in memory.

    small files    decoded columns: the newest rows are in many small files, and opening one takes
                   longer than reading its rows
    deltas         the same, since the scan of every region reads them
    other files    verified, parsed footers; of the columns that filters and aggregates read, those
                   of numbers and dictionaries, with decimals in the narrow form

Files never change. Entries are identified by the file's number and checksums, so they remain valid
even if the store's folder is replaced.
"""

import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.base.errors import CodecError, CorruptionError
from pyspark_theflash.base.lru import LeastRecent
from pyspark_theflash.storage.engine.magic.bloom import BloomFilter, filters_of, hash_of
from pyspark_theflash.storage.engine.magic.file import (
    UNREADABLE,
    DataFile,
    FileKind,
    combine_chunks,
    is_text,
    never_null,
    parquet_file,
    read_row_group,
    reading,
    warn_of_copy,
)
from pyspark_theflash.storage.engine.magic.statistics import (
    STATISTICS,
    ColumnStatistics,
    decoded,
)
from pyspark_theflash.tidb.codec.narrow import narrowed

COLUMNS_BYTES: Final = 128 << 20
NUMBERS_BYTES: Final = 256 << 20
_MEMORY_PART: Final = 16
"""The number caches of one process per core take 1/n of the machine's memory in total."""
DELTA_BYTES: Final = 16 << 20
"""Maximum size of a cached delta; larger ones would evict too much."""
FOOTERS_BYTES: Final = 16 << 20
STATISTICS_BYTES: Final = 16 << 20
_FOOTER_BYTES: Final = 500
_Content: TypeAlias = tuple[int, int, int]
"""`DataFile.content`."""
_PARSED: Final = 4
"""Approximate ratio of a parsed footer's size to its encoded size."""


@dataclass(frozen=True, slots=True)
class Footer:
    """Columns and row groups of a file."""

    names: frozenset[str]
    never_null: frozenset[str]
    """The user columns without NULLs according to the footer."""
    group_rows: Sequence[int]
    """Rows of each row group; all row groups of a file whose columns are cached count as one."""
    metadata: pq.FileMetaData | None
    """The parsed footer; None for a small file, whose columns are cached."""


@dataclass(frozen=True, slots=True)
class FileStatistics:
    """Statistics of the row groups of a file by column, and filters by row group and column."""

    columns: Mapping[str, ColumnStatistics]
    filters: Mapping[tuple[int, str], BloomFilter]


class FileCache:
    """Caches of footers and columns for the files of a store."""

    def __init__(self) -> None:
        self.footers: Final = LeastRecent[_Content, Footer](FOOTERS_BYTES)
        self.statistics: Final = LeastRecent[_Content, FileStatistics](STATISTICS_BYTES)
        self.columns: Final = LeastRecent[tuple[_Content, int, str], pa.ChunkedArray](COLUMNS_BYTES)
        """Columns of small files and deltas, by file, row group number and column name."""
        self.numbers: Final = LeastRecent[tuple[_Content, int, str], pa.ChunkedArray](
            _numbers_bytes()
        )
        """Columns of other files."""


class OpenFile:
    """A data file open for reading; created by `opened`."""

    def __init__(
        self,
        cache: FileCache,
        folder: Path,
        info: DataFile,
        strings: Collection[str],
        closing: ExitStack,
    ) -> None:
        self._cache, self._folder, self._info, self._strings = cache, folder, info, strings
        self._closing = closing
        self._file: pq.ParquetFile | None = None
        self._copies = info.single_copies
        cached = cache.footers.get(info.content)
        self.footer: Final = self._read_footer() if cached is None else cached

    def existing(self, names: Iterable[str]) -> list[str]:
        """Return the columns among `names` that the file has."""
        return [name for name in names if name in self.footer.names]

    def read(self, group: int, names: Sequence[str], *, as_stored: bool = False) -> pa.Table:
        """Read columns of a row group, at least one, all of which the file has.

        With `as_stored`, decimals may be narrow (`tidb.codec.narrow`).
        """
        caches_all = _caches_all(self._info)
        if not caches_all and not as_stored:
            return self._read_group(group, names)
        cache = self._cache.columns if caches_all else self._cache.numbers
        keys = {name: (self._info.content, group, name) for name in names}
        columns = {name: cache.get(key) for name, key in keys.items()}
        if missing := [name for name, column in columns.items() if column is None]:
            table = self._read_group(group, missing)
            for name, column in zip(missing, table.columns, strict=True):
                if caches_all or (_is_of_numbers(column.type) and cache.admits(column.nbytes)):
                    if not caches_all:
                        column = pa.chunked_array([narrowed(combine_chunks(column))])
                    cache.put(keys[name], column, column.get_total_buffer_size())
                columns[name] = column
        return pa.table(columns)

    def has_cached(self, group: int, names: Iterable[str]) -> bool:
        """Return whether these columns of a row group are in memory."""
        cache = self._cache.columns if _caches_all(self._info) else self._cache.numbers
        return all(cache.get((self._info.content, group, name)) is not None for name in names)

    def _read_group(self, group: int, names: Sequence[str]) -> pa.Table:
        try:
            file = self._parquet()
            with reading(self._folder, self._copies[0]):
                if not _caches_all(self._info):
                    return read_row_group(file, group, names)
                groups = [read_row_group(file, n, names) for n in range(file.num_row_groups)]
                return pa.concat_tables(groups).combine_chunks()
        except UNREADABLE as error:
            self._next_copy(error)
        return self._read_group(group, names)

    @property
    def statistics(self) -> FileStatistics:
        """The statistics; none of a file whose columns are cached. Raises `CorruptionError`."""
        if self.footer.metadata is None or _caches_all(self._info):
            return _NO_STATISTICS
        statistics = self._cache.statistics.get(self._info.content)
        if statistics is None:
            statistics = self._read_statistics(self.footer.metadata)
            size = _FOOTER_BYTES + self._info.footer_bytes * _PARSED
            self._cache.statistics.put(self._info.content, statistics, size)
        return statistics

    def may_have(self, group: int, name: str, values: Sequence[int | str | bytes]) -> bool:
        """Return whether a row group may have one of the values in a column, by its filter.

        Raises `CorruptionError`.
        """
        if (bloom := self.statistics.filters.get((group, name))) is None:
            return True
        for value in values:
            hash = hash_of(value, is_of_32_bits=bloom.is_of_32_bits)
            if hash is None or bloom.may_have(hash, self._filter_page(bloom, bloom.page_of(hash))):
                return True
        return False

    def _filter_page(self, bloom: BloomFilter, page: int) -> bytes:
        path = self._folder / self._copies[0].path
        offset, size = bloom.range_of(page)
        try:
            data = self._bytes(offset, size)
            if zlib.crc32(data) != bloom.crcs[page]:
                raise CorruptionError(str(path), offset, "a Bloom filter fails its checksum")
        except UNREADABLE as error:
            self._next_copy(error)
            return self._filter_page(bloom, page)
        return data

    def _bytes(self, offset: int, size: int) -> bytes:
        """Read a part of the file, which is shorter if the file ends there."""
        with (
            reading(self._folder, self._copies[0]),
            open(self._folder / self._copies[0].path, "rb") as file,
        ):
            file.seek(offset)
            return file.read(size)

    def _next_copy(self, error: Exception) -> None:
        """Continue with the next copy of the file; raise `error` if there is none."""
        if len(self._copies) == 1:
            raise error
        warn_of_copy(error)
        self._file = None
        del self._copies[0]

    def _parquet(self) -> pq.ParquetFile:
        """Return the Parquet file, opened at the first read that is not cached."""
        if self._file is None:
            footer = self._cache.footers.get(self._info.content)
            with reading(self._folder, self._copies[0]):
                self._file = parquet_file(
                    self._folder,
                    self._copies[0],
                    self._closing,
                    as_dictionaries=self._strings,
                    metadata=None if footer is None else footer.metadata,
                )
        return self._file

    def _read_footer(self) -> Footer:
        try:
            file = self._parquet()
        except UNREADABLE as error:
            self._next_copy(error)
            return self._read_footer()
        metadata = file.metadata
        group_rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        footer = Footer(
            frozenset(file.schema_arrow.names),
            never_null(metadata),
            [sum(group_rows)] if _caches_all(self._info) else group_rows,
            None if self._info.is_small else metadata,
        )
        parsed = 0 if self._info.is_small else self._info.footer_bytes * _PARSED
        self._cache.footers.put(self._info.content, footer, _FOOTER_BYTES + parsed)
        return footer

    def _read_statistics(self, metadata: pq.FileMetaData) -> FileStatistics:
        info = self._copies[0]
        path, start = str(self._folder / info.path), info.size_bytes - info.footer_bytes
        text = (metadata.metadata or {}).get(STATISTICS)
        if text is None:
            return _NO_STATISTICS
        try:
            end = self._bytes(start, info.footer_bytes)
            if zlib.crc32(end) != info.footer_crc:
                raise CorruptionError(path, start, "the footer fails its checksum")
        except UNREADABLE as error:
            self._next_copy(error)
            return self._read_statistics(metadata)
        schema = metadata.schema.to_arrow_schema()
        try:
            columns = decoded(text, schema, metadata.num_row_groups)
        except CodecError as error:
            raise CorruptionError(path, start, f"has invalid statistics ({error})") from error
        return FileStatistics(columns, filters_of(metadata, end))


_NO_STATISTICS: Final = FileStatistics({}, {})


def _caches_all(info: DataFile) -> bool:
    """Return whether all columns of a file are cached."""
    return info.is_small or (info.kind is FileKind.DELTA and info.size_bytes <= DELTA_BYTES)


def _is_of_numbers(tp: pa.DataType) -> bool:
    return not is_text(tp) and not pa.types.is_nested(tp)


def _numbers_bytes() -> int:
    """Return the size of this process's cache of numbers of large files."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(NUMBERS_BYTES, memory // _MEMORY_PART // (os.cpu_count() or 1))


@contextmanager
def opened(
    cache: FileCache, folder: Path, info: DataFile, strings: Collection[str] = ()
) -> Iterator[OpenFile]:
    """Open a file for reading. The columns `strings` may be returned as dictionaries.

    Reads in the block raise what `file.reading` does.
    """
    with ExitStack() as closing:
        yield OpenFile(cache, folder, info, strings, closing)
