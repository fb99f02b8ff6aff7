"""What is kept of data files that were read, so that the next scan need not read it again.

    small files    their columns, decoded: the newest rows, which every scan looks at, stand in many
                   of them, and to open one takes longer than to read its rows
    deltas         the same, for the scan of every region looks into them
    other files    their footers, checked and parsed; of what scans look at without handing it
                   out, the columns of numbers and of dictionaries, decimals in few bits

A file never changes, and is known by its number and its checksums, so what is kept of it holds for
as long as anybody asks, whatever becomes of the store's folder.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from pyspark_theflash.storage.engine.magic.file import (
    UNREADABLE,
    DataFile,
    FileKind,
    combine_chunks,
    is_text,
    never_null,
    open_file,
    read_row_group,
    warn_of_copy,
)
from pyspark_theflash.storage.engine.magic.lru import LeastRecent
from pyspark_theflash.tidb.codec.narrow import narrowed

COLUMNS_BYTES: Final = 128 << 20
NUMBERS_BYTES: Final = 256 << 20
_MEMORY_PART: Final = 16
"""Of the machine's memory, what the processes on all its cores take for numbers."""
DELTA_BYTES: Final = 16 << 20
"""Larger deltas would leave no room for much else."""
FOOTERS_BYTES: Final = 16 << 20
_FOOTER_BYTES: Final = 500
_Content: TypeAlias = tuple[int, int, int]
"""A file, as `DataFile.content` has it."""
_PARSED: Final = 4
"""How many bytes a parsed footer takes for each that is written, roughly."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file has: its columns, and how many rows in each row group."""

    names: frozenset[str]
    never_null: frozenset[str]
    """The user's columns that no row has NULL in, as far as the file says so."""
    group_rows: Sequence[int]
    metadata: pq.FileMetaData | None
    """Of a file that is opened again and again."""


class KeptFiles:
    """What is kept of the files of a store."""

    def __init__(self) -> None:
        self.footers: Final = LeastRecent[_Content, Footer](FOOTERS_BYTES)
        self.columns: Final = LeastRecent[tuple[_Content, int, str], pa.ChunkedArray](COLUMNS_BYTES)
        """By the file, the row group's number and the column's name."""
        self.numbers: Final = LeastRecent[tuple[_Content, int, str], pa.ChunkedArray](
            _numbers_bytes()
        )
        """The same, of the other files."""


class OpenFile:
    """A data file to read columns of; made by `opened`."""

    def __init__(
        self,
        kept: KeptFiles,
        folder: Path,
        info: DataFile,
        strings: Collection[str],
        closing: ExitStack,
    ) -> None:
        self._kept, self._folder, self._info, self._strings = kept, folder, info, strings
        self._closing = closing
        self._file: pq.ParquetFile | None = None
        self._copies = info.each
        known = kept.footers.get(info.content)
        self.footer: Final = self._read_footer() if known is None else known

    def those_of(self, names: Iterable[str]) -> list[str]:
        """The columns among `names` that the file has."""
        return [name for name in names if name in self.footer.names]

    def read(self, group: int, names: Sequence[str], *, as_stored: bool = False) -> pa.Table:
        """Columns of a row group, at least one, all of which the file has.

        With `as_stored`, decimals may be narrow (`tidb.codec.narrow`).
        """
        is_whole = _is_kept(self._info)
        if not is_whole and not as_stored:
            return self._read_group(group, names)
        kept = self._kept.columns if is_whole else self._kept.numbers
        keys = {name: (self._info.content, group, name) for name in names}
        found = {name: kept.get(key) for name, key in keys.items()}
        if lacking := [name for name, column in found.items() if column is None]:
            table = self._read_group(group, lacking)
            for name, column in zip(lacking, table.columns, strict=True):
                if is_whole or (_is_of_numbers(column.type) and kept.admits(column.nbytes)):
                    if not is_whole:
                        column = pa.chunked_array([narrowed(combine_chunks(column))])
                    kept.put(keys[name], column, column.get_total_buffer_size())
                found[name] = column
        return pa.table(found)

    def _read_group(self, group: int, names: Sequence[str]) -> pa.Table:
        try:
            return read_row_group(self._parquet(), group, names)
        except (pa.ArrowException, OSError, *UNREADABLE) as error:
            self._leave_copy(error)
        return self._read_group(group, names)

    def _leave_copy(self, error: Exception) -> None:
        """Go on with the next copy of the file; raise the error where there is none."""
        if len(self._copies) == 1:
            raise error
        warn_of_copy(error)
        self._file = None
        del self._copies[0]

    def _parquet(self) -> pq.ParquetFile:
        """The file itself, opened when something is read of it first."""
        if self._file is None:
            footer = self._kept.footers.get(self._info.content)
            self._file = self._closing.enter_context(
                open_file(
                    self._folder,
                    self._copies[0],
                    as_dictionaries=self._strings,
                    metadata=None if footer is None else footer.metadata,
                )
            )
        return self._file

    def _read_footer(self) -> Footer:
        try:
            file = self._parquet()
        except UNREADABLE as error:
            self._leave_copy(error)
            return self._read_footer()
        metadata = file.metadata
        footer = Footer(
            frozenset(file.schema_arrow.names),
            never_null(metadata),
            [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)],
            None if self._info.is_small else metadata,
        )
        parsed = 0 if self._info.is_small else self._info.footer_bytes * _PARSED
        self._kept.footers.put(self._info.content, footer, _FOOTER_BYTES + parsed)
        return footer


def _is_kept(info: DataFile) -> bool:
    return info.is_small or (info.kind is FileKind.DELTA and info.size_bytes <= DELTA_BYTES)


def _is_of_numbers(tp: pa.DataType) -> bool:
    return not is_text(tp) and not pa.types.is_nested(tp)


def _numbers_bytes() -> int:
    """How much of the numbers of large files this process keeps."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(NUMBERS_BYTES, memory // _MEMORY_PART // (os.cpu_count() or 1))


@contextmanager
def opened(
    kept: KeptFiles, folder: Path, info: DataFile, strings: Collection[str] = ()
) -> Iterator[OpenFile]:
    """A file to read; `strings` are the names of columns that may come as dictionaries.

    Raises what `open_file` does, also for what the block reads.
    """
    with ExitStack() as closing:
        yield OpenFile(kept, folder, info, strings, closing)
