"""A source of entities: binlog files on disk, as pump writes them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pyspark_theflash.binlog.event import Entity
from pyspark_theflash.binlog.frame import ByteStream, FrameReader
from pyspark_theflash.binlog.stream import GzipStream, PlainStream
from pyspark_theflash.binlog.wire import decode_entity
from pyspark_theflash.errors import BinlogCorruptionError, OptionError

_log = logging.getLogger(__name__)
_BUFFER_BYTES: Final = 1 << 18


class FileSource:
    """One file, or the files of one folder by name; hidden files and folders in it do not count.

    Which files, and how much of each, is fixed at construction: what is written later is for the
    next source. Names that end in `.gz` are inflated. Raises `OptionError` where there is nothing
    to read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._sizes = {file: file.stat().st_size for file in _files(path)}
        except OSError as error:
            raise _unreadable(path, error) from error
        self.torn_tails: list[tuple[str, int]] = []
        """(file, offset) of a frame cut short: at most one, known when `entities` has ended."""

    def entities(self) -> Iterator[Entity]:
        """Every entity, in order. Starts over at each call.

        Raises `BinlogCorruptionError` and `UnsupportedError`; what came before in the same file is
        sound.
        """
        self.torn_tails.clear()
        for file, size_bytes in self._sizes.items():
            self._check_whole()
            yield from self._entities_of(file, size_bytes)
        for name, offset in self.torn_tails:
            _log.warning("binlog ends in a frame cut short: file=%s offset=%d", name, offset)

    def _check_whole(self) -> None:
        """Pump begins a next file after a whole frame only, so just the last one's tail is torn."""
        for name, offset in self.torn_tails:
            reason = "frame cut short in a file that is not the last"
            raise BinlogCorruptionError(name, offset, reason)

    def _entities_of(self, path: Path, size_bytes: int) -> Iterator[Entity]:
        file = str(path)
        with _open(path) as raw:
            stream: ByteStream = PlainStream(raw, file, size_bytes)
            if path.suffix == ".gz":
                stream = GzipStream(stream, file)
            frames = FrameReader(stream, file)
            for offset, payload in frames:
                yield decode_entity(payload, file, offset)
            if frames.torn or (isinstance(stream, GzipStream) and stream.truncated):
                self.torn_tails.append((file, frames.offset))


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb", _BUFFER_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> OptionError:
    return OptionError("source", f"cannot read {path}: {error.strerror}")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
