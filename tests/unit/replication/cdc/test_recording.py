"""Recordings of a change feed's streams."""

import random
import stat
import struct
import zlib
from contextlib import closing

import pytest

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import CorruptionError
from pyspark_theflash.replication.cdc.recording import (
    RecordedItem,
    RecordedStreams,
    Recording,
    read_recording,
)
from pyspark_theflash.replication.cdc.streams import StreamEnd
from tests.support.manual_clock import ManualClock


class PlainStream:
    def __init__(self, store_id, *, is_multiplexed):
        self.store_id, self.address, self.is_multiplexed = store_id, "a:1", is_multiplexed
        self.sent, self.is_closed = [], False

    def send(self, request):
        self.sent.append(request)

    def close(self):
        self.is_closed = True


class PlainStreams:
    def __init__(self):
        self.opened, self.items, self.is_closed = [], [], False

    def open(self, store_id, deadline, *, is_multiplexed):
        self.opened.append(PlainStream(store_id, is_multiplexed=is_multiplexed))
        return self.opened[-1]

    def receive(self, timeout_ms):
        items, self.items = self.items, []
        return items

    def close(self):
        self.is_closed = True


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def recording(clock, path):
    with closing(Recording(path, clock)) as recording:
        yield recording


@pytest.fixture
def path(tmp_path):
    return tmp_path / "feed"


def test_all_items_are_recorded_and_passed_on(clock, path, recording):
    inner = PlainStreams()
    streams = RecordedStreams(inner, recording)
    first = streams.open(4, Deadline(clock, 1000), is_multiplexed=True)
    second = streams.open(5, Deadline(clock, 1000), is_multiplexed=False)
    first.send(b"register")
    clock.sleep_ms(30)
    plain_first, plain_second = inner.opened
    end = StreamEnd("reset")
    inner.items = [(plain_second, b"x"), (plain_first, b"y"), (plain_second, end)]
    assert streams.receive(10) == [(second, b"x"), (first, b"y"), (second, end)]
    first.close()
    streams.close()
    recording.flush()
    assert (plain_first.sent, plain_first.is_closed, inner.is_closed) == ([b"register"], True, True)
    assert (first.store_id, first.is_multiplexed, second.is_multiplexed) == (4, True, False)
    assert list(read_recording(path)) == [
        RecordedItem(0, 1, 4, "opened", b"EventFeedV2"),
        RecordedItem(0, 2, 5, "opened", b"EventFeed"),
        RecordedItem(0, 1, 4, "request", b"register"),
        RecordedItem(30, 2, 5, "frame", b"x"),
        RecordedItem(30, 1, 4, "frame", b"y"),
        RecordedItem(30, 2, 5, "ended", b"reset"),
        RecordedItem(30, 1, 4, "ended", b"closed by this side"),
    ]
    assert (recording.frames, recording.frame_bytes) == (2, 2)


def test_only_the_owner_reads_a_recording(clock, path):
    Recording(path, clock).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(read_recording(path)) == []


def test_a_file_is_not_overwritten(clock, path):
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        Recording(path, clock)
    assert path.read_bytes() == b"mine"


def test_a_recording_without_its_end(path, recording):
    """A process that is killed leaves what it has flushed."""
    recording.add(1, 4, "frame", b"x")
    recording.flush()
    recording.add(1, 4, "frame", b"lost")
    assert [item.data for item in read_recording(path)] == [b"x"]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorruptionError, match="the recording cannot be read"):
        list(read_recording(path))


def test_files_of_others(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"another file")
    with pytest.raises(CorruptionError):
        list(read_recording(path))
    path.write_bytes(b"")
    with pytest.raises(CorruptionError):
        list(read_recording(path))


def test_large_items(path, recording):
    data = random.Random(1).randbytes(3 << 20) + bytes(3 << 20)
    for n in range(3):
        recording.add(n, 4, "frame", data[n:])
    recording.flush()
    assert [item.data for item in read_recording(path)] == [data, data[1:], data[2:]]


@pytest.mark.parametrize("claim", [2**32 - 1, 2**28, 100])
def test_an_item_that_claims_more_than_the_file_has(path, claim, recording):
    """Bytes are held only as they come, and at most as many as the largest item has."""
    recording.add(1, 4, "frame", b"x")
    recording.flush()
    item = struct.pack("<qIqBI", 0, 1, 4, 2, claim)
    content = path.read_bytes().partition(b"\n")[2]
    body = zlib.compress(zlib.decompressobj().decompress(content) + item + bytes(60))
    path.write_bytes(b"theflash change feed 1\n" + body)
    items = read_recording(path)
    assert next(items).data == b"x"
    with pytest.raises(CorruptionError, match="cut off"):
        next(items)
