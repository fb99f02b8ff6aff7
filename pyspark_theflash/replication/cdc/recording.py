"""Recordings of a change feed's streams: the requests, and the messages of the stores.

A recording is a line that names the format, then a zlib stream of items in the order of arrival:

    i64 time_ms    u32 stream    i64 store_id    u8 kind    u32 size    data       (little-endian)

The stream is flushed about every second, so one that was cut off can be read up to there. A
recording comes from a stranger: a reader holds one item at a time, of bounded size.
"""

import struct
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.replication.cdc.streams import Stream, StreamEnd, Streams

OPENED: Final = "opened"
"""`data` is the name of the service's method."""
REQUEST: Final = "request"
"""`data` is a ChangeDataRequest."""
FRAME: Final = "frame"
"""`data` is a ChangeDataEvent."""
ENDED: Final = "ended"
"""`data` is the reason."""
_FORMAT: Final = b"theflash change feed 1\n"
_ITEM: Final = struct.Struct("<qIqBI")
_KINDS: Final = (OPENED, REQUEST, FRAME, ENDED)
_LEVEL: Final = 1
_CHUNK_BYTES: Final = 1 << 18
_ITEM_BYTES_MAX: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class RecordedItem:
    """An item of a recording."""

    time_ms: int
    stream: int
    store_id: int
    kind: str
    data: bytes


class Recording:
    """A file that a recording is written to."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Create the file. Raises `FileExistsError`."""
        self._clock, self._start_ms = clock, clock.boottime_ms()
        self._file = path.open("xb")
        path.chmod(0o600)
        self._file.write(_FORMAT)
        self._compressor = zlib.compressobj(_LEVEL)
        self.frames = self.frame_bytes = 0

    def add(self, stream: int, store_id: int, kind: str, data: bytes) -> None:
        """Add an item."""
        time_ms = self._clock.boottime_ms() - self._start_ms
        head = _ITEM.pack(time_ms, stream, store_id, _KINDS.index(kind), len(data))
        self._file.write(self._compressor.compress(head + data))
        if kind == FRAME:
            self.frames += 1
            self.frame_bytes += len(data)

    def flush(self) -> None:
        """Write all items to the file."""
        self._file.write(self._compressor.flush(zlib.Z_SYNC_FLUSH))
        self._file.flush()

    def close(self) -> None:
        """Write all items, and the end of the file."""
        self._file.write(self._compressor.flush())
        self._file.close()


class RecordedStreams:
    """`Streams` that are recorded."""

    def __init__(self, streams: Streams, recording: Recording) -> None:
        self._streams, self._recording = streams, recording
        self._open: dict[Stream, _RecordedStream] = {}
        self._opened = 0

    def open(self, store_id: int, deadline: Deadline, *, is_multiplexed: bool) -> Stream:
        stream = self._streams.open(store_id, deadline, is_multiplexed=is_multiplexed)
        self._opened += 1
        recorded = _RecordedStream(stream, self._opened, self._recording)
        recorded.record(OPENED, b"EventFeedV2" if is_multiplexed else b"EventFeed")
        self._open[stream] = recorded
        return recorded

    def receive(self, timeout_ms: int) -> Sequence[tuple[Stream, bytes | StreamEnd]]:
        items = []
        for stream, item in self._streams.receive(timeout_ms):
            recorded = self._open[stream]
            if isinstance(item, StreamEnd):
                recorded.record(ENDED, item.reason.encode())
                del self._open[stream]
            else:
                recorded.record(FRAME, item)
            items.append((recorded, item))
        return items

    def close(self) -> None:
        self._streams.close()


class _RecordedStream:
    def __init__(self, stream: Stream, number: int, recording: Recording) -> None:
        self.store_id, self.address = stream.store_id, stream.address
        self.is_multiplexed = stream.is_multiplexed
        self._stream, self._number, self._recording = stream, number, recording

    def record(self, kind: str, data: bytes) -> None:
        self._recording.add(self._number, self.store_id, kind, data)

    def send(self, request: bytes) -> None:
        self.record(REQUEST, request)
        self._stream.send(request)

    def close(self) -> None:
        self.record(ENDED, b"closed by this side")
        self._stream.close()


def read_recording(path: Path) -> Iterator[RecordedItem]:
    """Yield the items of a recording.

    Raises:
        CorruptionError: The file is no recording, or damaged. Items before the damage are yielded.
        FileNotFoundError: There is no such file.
    """
    with path.open("rb") as file:
        try:
            if file.read(len(_FORMAT)) != _FORMAT:
                raise CorruptionError(str(path), 0, "not a recording of a change feed")
            rest = yield from _items(file)
        except (zlib.error, OSError) as error:
            reason = f"the recording cannot be read: {error}"
            raise CorruptionError(str(path), file.tell(), reason) from error
        if rest:
            reason = "the recording cannot be read: it is cut off, or an item is damaged"
            raise CorruptionError(str(path), file.tell(), reason)


def _items(file: BinaryIO) -> Generator[RecordedItem, None, int]:
    """Yield the whole items of a file; return the number of bytes that remain."""
    inflated, decompressor = bytearray(), zlib.decompressobj()
    is_last = False
    while not is_last:
        data = decompressor.unconsumed_tail or file.read(_CHUNK_BYTES)
        is_last = not data
        inflated += decompressor.decompress(data, _CHUNK_BYTES) if data else decompressor.flush()
        at = 0
        while len(inflated) - at >= _ITEM.size:
            time_ms, stream, store_id, kind, size = _ITEM.unpack_from(inflated, at)
            if kind >= len(_KINDS) or size > _ITEM_BYTES_MAX:
                return len(inflated) - at
            end = at + _ITEM.size + size
            if end > len(inflated):
                break
            content = bytes(inflated[at + _ITEM.size : end])
            yield RecordedItem(time_ms, stream, store_id, _KINDS[kind], content)
            at = end
        del inflated[:at]
    return len(inflated) + len(decompressor.unused_data)
