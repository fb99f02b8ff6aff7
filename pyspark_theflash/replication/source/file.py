"""Source that reads binlog files as pump writes them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from pyspark_theflash.base.clock import SystemClock
from pyspark_theflash.base.errors import BinlogCorruptionError, OptionError
from pyspark_theflash.replication.source.event import Entity
from pyspark_theflash.replication.source.frame import FRAME_OVERHEAD_BYTES, ByteStream, FrameReader
from pyspark_theflash.replication.source.position import FilePosition
from pyspark_theflash.replication.source.stream import GzipStream, PlainStream
from pyspark_theflash.replication.source.wire import decode_entities

_log = logging.getLogger(__name__)
_BUFFER_BYTES: Final = 1 << 18
_GROWING_MS: Final = 10_000
"""A truncated frame is expected at the end of a file that was written to so recently."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One undecoded message: `file` and `offset` of its frame, and the position after it."""

    file: str
    offset: int
    end: FilePosition
    payload: bytes = field(repr=False)


class FileSource:
    """Entities of one file, or of a folder's files in the order of their names.

    Hidden files and subfolders are ignored. The list of files and their sizes is fixed at
    construction: data appended later is read by the next source, which continues at this one's
    `position`. No position is after a truncated frame at the end of the last file, so the next
    source reads that frame again. Files with a name ending in `.gz` are decompressed.
    """

    def __init__(self, path: Path, end: FilePosition | None = None) -> None:
        """List the files; raise `OptionError` if `path` cannot be read.

        `end` is the position to stop at, in a file that is not compressed; None reads all files.
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
        """(file, offset) of a truncated frame: at most one, set when `entities` has ended."""

    @property
    def position(self) -> str | None:
        """Position after the last entity, or where `entities` started; None at the beginning.

        If one message yields two entities, the position advances with the second.
        """
        return self._position

    def entities(self, after: str | None = None) -> Iterator[Entity]:
        """Yield the entities after position `after` in order; all of them if it is None.

        Raises:
            OptionError: The file of `after` does not exist or cannot be read.
            BinlogCorruptionError: `after` is not on a frame boundary, or a frame is corrupt.
            UnsupportedError: A message is of an unknown kind.
        """
        self._position = after
        for frame in self.frames(after):
            *first, last = decode_entities(frame.payload, frame.file, frame.offset)
            yield from first
            self._position = str(frame.end)
            yield last

    def frames(self, after: str | None = None) -> Iterator[Frame]:
        """Yield the frames like `entities`, but do not decode them or advance `position`."""
        self.torn_tails.clear()
        begin = self._begin(after)
        for path, size_bytes in self._sizes.items():
            if path.name >= begin.name:
                self._check_whole()
                offset = begin.offset if path.name == begin.name else 0
                yield from self._frames_of(path, size_bytes, offset)
        for name, torn_at in self.torn_tails:
            age_ms = SystemClock().wall_ms() - Path(name).stat().st_mtime * 1000
            if age_ms > _GROWING_MS:
                _log.warning("binlog ends in a truncated frame: file=%s offset=%d", name, torn_at)

    def _begin(self, after: str | None) -> FilePosition:
        if after is None:
            return FilePosition("", 0)
        position = FilePosition.parse(after)
        if position.name not in {path.name for path in self._sizes}:
            reason = f"cannot continue after position {after}: file {position.name} does not exist"
            raise OptionError("source", reason)
        return position

    def _check_whole(self) -> None:
        """Reject a torn tail before the last file: pump rotates files after whole frames only."""
        for name, offset in self.torn_tails:
            reason = "truncated frame in a file that is not the last"
            raise BinlogCorruptionError(name, offset, reason)

    def _frames_of(self, path: Path, size_bytes: int, begin: int) -> Iterator[Frame]:
        """Yield the frames of a file after byte `begin`, which has to be a frame boundary."""
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
                    raise BinlogCorruptionError(file, begin, "position is inside a frame")
            _check_reaches(file, frames.offset, begin)
            if frames.torn or (isinstance(stream, GzipStream) and stream.truncated):
                self.torn_tails.append((file, frames.offset))


def _check_reaches(file: str, size_bytes: int, begin: int) -> None:
    if size_bytes < begin:
        reason = f"the file, read up to byte {begin} before, now ends"
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
