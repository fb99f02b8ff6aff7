"""A source of entities: binlog files on disk, as pump writes them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from pyspark_theflash.base.errors import BinlogCorruptionError, OptionError
from pyspark_theflash.replication.source.event import Entity
from pyspark_theflash.replication.source.frame import FRAME_OVERHEAD_BYTES, ByteStream, FrameReader
from pyspark_theflash.replication.source.position import FilePosition
from pyspark_theflash.replication.source.stream import GzipStream, PlainStream
from pyspark_theflash.replication.source.wire import decode_entities

_log = logging.getLogger(__name__)
_BUFFER_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Frame:
    """One message where it stands: `file` and `offset` of its frame, and the place behind it."""

    file: str
    offset: int
    end: FilePosition
    payload: bytes = field(repr=False)


class FileSource:
    """One file, or the files of one folder by name; hidden files and folders in it do not count.

    Which files, and how much of each, is fixed at construction: what is written later is for the
    next source, which goes on at the `position` of this one. A frame cut short at the end of the
    last file is not passed by any position, so the next source reads it again. Names that end in
    `.gz` are inflated.
    """

    def __init__(self, path: Path, end: FilePosition | None = None) -> None:
        """`end`: read nothing behind this place, which is in a file that is not compressed.

        Raises `OptionError` where there is nothing to read.
        """
        try:
            self._sizes = {file: file.stat().st_size for file in _files(path)}
        except OSError as error:
            raise _unreadable(path, error) from error
        if end is not None:
            self._sizes = {
                file: end.offset if file.name == end.name else size
                for file, size in self._sizes.items()
                if file.name <= end.name
            }
        self._position: str | None = None
        self.torn_tails: list[tuple[str, int]] = []
        """(file, offset) of a frame cut short: at most one, known when `entities` has ended."""

    @property
    def position(self) -> str | None:
        """Where to go on: behind the last entity, or where `entities` began; None at the start.

        Of the two entities that one message may be, the first does not move it.
        """
        return self._position

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """Every entity behind the position `after`, else every one, in order.

        Raises `OptionError` for a position in a file that is not there, `BinlogCorruptionError` for
        one that is not at the border of a frame, and `BinlogCorruptionError` and `UnsupportedError`
        for what it reads; what came before in the same file is sound.
        """
        self._position = after
        for frame in self.frames(after):
            *first, last = decode_entities(frame.payload, frame.file, frame.offset)
            yield from first
            self._position = str(frame.end)
            yield last

    def frames(self, after: str | None = None) -> Iterator[Frame]:
        """As `entities`, but not decoded; does not move `position`."""
        self.torn_tails.clear()
        begin = self._begin(after)
        for path, size_bytes in self._sizes.items():
            if path.name >= begin.name:
                self._check_whole()
                offset = begin.offset if path.name == begin.name else 0
                yield from self._frames_of(path, size_bytes, offset)
        for name, torn_at in self.torn_tails:
            _log.warning("binlog ends in a frame cut short: file=%s offset=%d", name, torn_at)

    def _begin(self, after: str | None) -> FilePosition:
        if after is None:
            return FilePosition("", 0)
        position = FilePosition.parse(after)
        if position.name not in {path.name for path in self._sizes}:
            reason = f"{after} was applied last, and {position.name} is not there any more"
            raise OptionError("source", reason)
        return position

    def _check_whole(self) -> None:
        """Pump begins a next file after a whole frame only, so just the last one's tail is torn."""
        for name, offset in self.torn_tails:
            reason = "frame cut short in a file that is not the last"
            raise BinlogCorruptionError(name, offset, reason)

    def _frames_of(self, path: Path, size_bytes: int, begin: int) -> Iterator[Frame]:
        """The frames behind byte `begin`; what follows it tells whether a frame ended there."""
        file = str(path)
        with _open(path) as raw:
            if path.suffix == ".gz":
                stream: ByteStream = GzipStream(PlainStream(raw, file, size_bytes), file)
                frames = FrameReader(stream, file)
            else:
                _check_reaches(file, size_bytes, begin)
                raw.seek(begin)
                stream = PlainStream(raw, file, size_bytes, begin)
                frames = FrameReader(stream, file, begin)
            for offset, payload in frames:
                end = FilePosition(path.name, offset + FRAME_OVERHEAD_BYTES + len(payload))
                if offset >= begin:
                    yield Frame(file, offset, end, payload)
                elif end.offset > begin:
                    raise BinlogCorruptionError(file, begin, "no frame ends")
            _check_reaches(file, frames.offset, begin)
            if frames.torn or (isinstance(stream, GzipStream) and stream.truncated):
                self.torn_tails.append((file, frames.offset))


def _check_reaches(file: str, size_bytes: int, begin: int) -> None:
    if size_bytes < begin:
        reason = f"the file has been read up to byte {begin} before, and now ends"
        raise BinlogCorruptionError(file, size_bytes, reason)


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
