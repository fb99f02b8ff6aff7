"""Recordings of a change feed's streams: the requests, and the messages of the stores.

A recording is an Arrow IPC stream of `SCHEMA`, a row per item in the order of arrival. One that was
cut off can be read up to its last whole batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from pyspark_theflash.base.clock import Clock, Deadline
from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.replication.cdc.streams import Stream, StreamEnd, Streams

SCHEMA: Final = pa.schema(
    [
        ("time_ms", pa.int64()),  # since the start of the recording
        ("stream", pa.int32()),
        ("store_id", pa.int64()),
        ("kind", pa.string()),  # one of those below
        ("data", pa.binary()),
    ],
    metadata={"format": "theflash change feed 1"},
)
OPENED: Final = "opened"
"""`data` is the name of the service's method."""
REQUEST: Final = "request"
"""`data` is a ChangeDataRequest."""
FRAME: Final = "frame"
"""`data` is a ChangeDataEvent."""
ENDED: Final = "ended"
"""`data` is the reason."""
_BATCH_BYTES: Final = 1 << 20
_BATCH_ROWS: Final = 10_000


@dataclass(frozen=True, slots=True)
class RecordedItem:
    """A row of a recording."""

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
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._writer = pa.ipc.new_stream(self._file, SCHEMA, options=options)
        self._rows: list[tuple[int, int, int, str, bytes]] = []
        self._rows_bytes = 0
        self.frames = self.frame_bytes = 0

    def add(self, stream: int, store_id: int, kind: str, data: bytes) -> None:
        """Add an item."""
        time_ms = self._clock.boottime_ms() - self._start_ms
        self._rows.append((time_ms, stream, store_id, kind, data))
        self._rows_bytes += len(data)
        if kind == FRAME:
            self.frames += 1
            self.frame_bytes += len(data)
        if self._rows_bytes >= _BATCH_BYTES or len(self._rows) >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write all items to the file."""
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(v, f.type) for v, f in zip(columns, SCHEMA, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
            self._file.flush()
            self._rows, self._rows_bytes = [], 0

    def close(self) -> None:
        """Write all items, and the end of the file."""
        self.flush()
        self._writer.close()
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
            reader = pa.ipc.open_stream(file)
            if reader.schema.metadata != SCHEMA.metadata or reader.schema != SCHEMA:
                raise CorruptionError(str(path), 0, "not a recording of a change feed")
            for batch in reader:
                for row in batch.to_pylist():
                    yield RecordedItem(**row)
        except (pa.ArrowInvalid, OSError) as error:
            reason = f"the recording cannot be read: {str(error)[:200]}"
            raise CorruptionError(str(path), file.tell(), reason) from error
