"""Batches of versions: the parts of a MergeTree table, as files of a store.

    data/<physical table>/<number>.meta              the columns, the parts' small files, and the
                                                     sizes and CRCs of their other files
    data/<physical table>/<number>.<part>.<name>     a file `name` of a part, the columns' values
    record "ch" <physical table>/<number>            the CRC of the .meta file, and statistics

ClickHouse writes a part once, in a temporary folder, and the store gets a synced copy of its files.
A process that reads verifies them and links them into a table of its own. So no ClickHouse process
has a store open: merges, deduplication and the removal of broken parts never apply to it.
"""

import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import google_crc32c

from pyspark_theflash.base.errors import CorruptionError, InternalError
from pyspark_theflash.base.fs import FileSystem, file_stamp
from pyspark_theflash.base.lru import LeastRecent
from pyspark_theflash.storage.engine.api import Handle, RegionScan
from pyspark_theflash.storage.engine.ch.column import StoredColumn, type_of
from pyspark_theflash.storage.engine.ch.session import PART, ChdbTable, session
from pyspark_theflash.storage.store.manifest import View, file_errors
from pyspark_theflash.tidb.codec.document import boolean, int64, items, load, shaped, text, uint64

BATCH_KIND: Final = "ch"
META: Final = ".meta"
_DATA: Final = ".bin"
_COUNT: Final = "count.txt"
"""The file of a part that has its number of rows."""
_PATH: Final = re.compile(r"-?\d+/\d+", re.ASCII)
_FILE: Final = re.compile(r"\w[\w.%-]*", re.ASCII)
_TABLES: Final = 256
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch of versions of a physical table.

    Attributes:
        path: Its .meta file, below the data folder, without the suffix.
        order: Of two versions of a row, that of the batch of the higher order is newer.
        crc: The CRC-32C of the .meta file.
        rows: The number of versions.
        size_bytes: The size of its files.
        min_ts: The smallest commit_ts.
        max_ts: The largest commit_ts.
        low: The smallest handle.
        high: The largest handle.
    """

    path: str
    physical_id: int
    order: int
    crc: int
    rows: int
    size_bytes: int
    min_ts: int
    max_ts: int
    low: Handle
    high: Handle

    @classmethod
    def from_json(cls, body: str | bytes) -> "StoredBatch":
        """Raises `CodecError`."""
        with shaped("ch batch"):
            document: dict[str, Any] = dict(load(body))
            path, physical_id = text(document.pop("path")), int64(document.pop("physical_id"))
            if not _PATH.fullmatch(path):
                raise ValueError("not the path of a batch")
            low, high = (_handle(document.pop(name)) for name in ("low", "high"))
            if type(low) is not type(high):
                raise ValueError("handles of two types")
            numbers = {name: uint64(value) for name, value in document.items()}
            return cls(path, physical_id, low=low, high=high, **numbers)

    def to_json(self) -> str:
        """Return the record's body, and the text in tickets."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("low", "high"):
            if isinstance(handle := values[name], bytes):
                values[name] = handle.hex()
        return json.dumps(values)

    def overlaps(self, low: Handle | None, high: Handle | None) -> bool:
        """Return whether it may have handles from `low` to `high`, both inclusive."""
        is_below = high is not None and self.low > high  # type: ignore[operator]
        return not is_below and (low is None or self.high >= low)  # type: ignore[operator]


def _handle(value: object) -> Handle:
    return bytes.fromhex(value) if isinstance(value, str) else int64(value)


@dataclass(frozen=True, slots=True)
class RegionBatches:
    """The batches of a table, in their order; implements `RegionContent`."""

    batches: tuple[StoredBatch, ...]

    @classmethod
    def from_texts(cls, content: Sequence[str]) -> "RegionBatches":
        """Raises `CodecError`."""
        return cls(tuple(map(StoredBatch.from_json, content)))

    @classmethod
    def of(cls, region: RegionScan) -> "RegionBatches":
        """Return the content of a region."""
        if not isinstance(region.content, cls):
            raise InternalError(f"region {region.region_id} was planned by another engine")
        return region.content

    def texts(self) -> tuple[str, ...]:
        return tuple(batch.to_json() for batch in self.batches)


def batches_of(view: View, physical_id: int | None = None) -> list[StoredBatch]:
    """Return the batches of a physical table, or of all, in their order."""
    every = map(StoredBatch.from_json, view.of_kind(BATCH_KIND).values())
    chosen = [batch for batch in every if physical_id in (None, batch.physical_id)]
    return sorted(chosen, key=lambda batch: (batch.physical_id, batch.order))


class BatchMeta:
    """The content of a .meta file: JSON, a line end, and the bytes of the parts' small files."""

    def __init__(self, data: bytes) -> None:
        """Parse the file, whose CRC has been verified. Raises `CodecError`."""
        head, _, self._body = data.partition(b"\n")
        with shaped("ch meta"):
            document = load(head)
            self.columns = tuple(
                StoredColumn(text(name), type_of(text(tp)), boolean(has_null))
                for name, tp, has_null in items(document["columns"])
            )
            self.parts: Mapping[str, Sequence[tuple[str, int, int | None]]] = {
                _matched(PART, part): [
                    (_matched(_FILE, name), uint64(size), None if crc is None else uint64(crc))
                    for name, size, crc in files
                ]
                for part, files in document["parts"].items()
            }

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the columns."""
        return frozenset(column.name for column in self.columns)

    def small_files(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield the part, name and content of each file that is not a file of the store."""
        at = 0
        for part, files in self.parts.items():
            for name, size, crc in files:
                if crc is None:
                    yield part, name, self._body[at : at + size]
                    at += size

    def large_files(self, path: Path) -> Iterator[tuple[str, str, Path, int, int]]:
        """Yield the part, name, path, size and CRC of each file of the store."""
        for part, files in self.parts.items():
            for name, size, crc in files:
                if crc is not None:
                    yield part, name, path.with_name(f"{path.name}.{part}.{name}"), size, crc


def _matched(pattern: re.Pattern[str], value: object) -> str:
    if not pattern.fullmatch(text(value)):
        raise ValueError("not the name of a part or of its file")
    return str(value)


def write_parts(
    fs: FileSystem, path: Path, table: ChdbTable, columns: Sequence[StoredColumn]
) -> tuple[int, int, int]:
    """Copy the parts of a table to files of the store, and sync them.

    Returns:
        The CRC of the .meta file, the number of rows, and the size of all files.
    """
    parts: dict[str, list[tuple[str, int, int | None]]] = {}
    body, total = [], 0
    rows = 0
    for part in table.parts():
        rows += int((part / _COUNT).read_bytes())
        files = parts[part.name] = []
        for file in sorted(part.iterdir()):
            with _mapped(file) as data:
                if file.suffix != _DATA:
                    body.append(bytes(data))
                    files.append((file.name, len(data), None))
                    continue
                files.append((file.name, len(data), _crc(data)))
                total += len(data)
                fs.write_new(path.with_name(f"{path.name}.{part.name}.{file.name}"), data)
    described = [(column.name, str(column.type), column.has_null) for column in columns]
    head = json.dumps({"columns": described, "parts": parts}).encode()
    meta = b"".join([head, b"\n", *body])
    fs.write_new(path.with_name(path.name + META), memoryview(meta))
    return google_crc32c.value(meta), rows, total + len(meta)


def _mapped(path: Path) -> memoryview:
    """Return the bytes of a file."""
    with open(path, "rb") as file:
        if not path.stat().st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _crc(data: memoryview) -> int:
    """Return the CRC-32C; `google_crc32c` takes bytes only."""
    crc = 0
    for at in range(0, len(data), _CHUNK):
        crc = google_crc32c.extend(crc, bytes(data[at : at + _CHUNK]))
    return crc


class LoadedBatch:
    """A batch in a table of this process; the table is dropped when the object is not used."""

    def __init__(self, meta: BatchMeta, table: ChdbTable, where: str) -> None:
        self.meta, self.where, self._table = meta, where, table

    @property
    def sql(self) -> str:
        """The table's name, quoted."""
        return self._table.sql


_loaded: Final = LeastRecent[tuple[object, ...], LoadedBatch](_TABLES)
_metas: Final = LeastRecent[tuple[object, ...], BatchMeta](4 * _TABLES)


def read_meta(data: Path, batch: StoredBatch) -> BatchMeta:
    """Read and verify a .meta file. Raises `CorruptionError`."""
    path = _meta_path(data, batch)
    key = _stamped([path]), batch.crc
    if (meta := _metas.get(key)) is None:
        verify(path, None, batch.crc)
        with file_errors(path):
            meta = BatchMeta(path.read_bytes())
        _metas.put(key, meta)
    return meta


def _meta_path(data: Path, batch: StoredBatch) -> Path:
    return data / f"{batch.path}{META}"


def _stamped(paths: Sequence[Path]) -> tuple[object, ...]:
    """Return what identifies the content of files that are never modified."""
    stamps = []
    for path in paths:
        with file_errors(path):
            stamp = file_stamp(path)
        if stamp is None:
            raise CorruptionError(str(path), 0, "is missing")
        stamps.append((str(path), *stamp))
    return tuple(stamps)


def verify(path: Path, size: int | None, crc: int) -> None:
    """Raise `CorruptionError` unless a file has this size and CRC-32C."""
    try:
        with file_errors(path), _mapped(path) as data:
            is_whole = size in (None, len(data)) and _crc(data) == crc
    except FileNotFoundError as error:
        raise CorruptionError(str(path), 0, "is missing") from error
    if not is_whole:
        raise CorruptionError(str(path), 0, "fails its checksum")


def load_batch(data: Path, batch: StoredBatch) -> LoadedBatch:
    """Verify all files of a batch and make them a table, or return the table of earlier."""
    meta, path = read_meta(data, batch), data / batch.path
    large = list(meta.large_files(path))
    key = _stamped([_meta_path(data, batch), *(file for _, _, file, _, _ in large)])
    if (loaded := _loaded.get(key)) is not None:
        return loaded
    contents: dict[str, dict[str, Path | bytes]] = {part: {} for part in meta.parts}
    for part, name, content in meta.small_files():
        contents[part][name] = content
    for part, name, file, size, crc in large:
        verify(file, size, crc)
        contents[part][name] = file
    table = session().create(meta.columns)
    for part, files in contents.items():
        table.attach(session(), part, files, str(path) + META)
    loaded = LoadedBatch(meta, table, str(path))
    _loaded.put(key, loaded)
    return loaded


def damages(data: Path, batch: StoredBatch) -> Iterator[CorruptionError]:
    """Yield each damage of a batch's files."""

    def failed(check: Callable[[], object]) -> Iterator[CorruptionError]:
        try:
            check()
        except CorruptionError as error:
            yield error

    yield from (errors := list(failed(lambda: verify(_meta_path(data, batch), None, batch.crc))))
    if not errors:
        for _, _, file, size, crc in read_meta(data, batch).large_files(data / batch.path):
            yield from failed(lambda f=file, s=size, c=crc: verify(f, s, c))  # type: ignore[misc]
