import io
import struct

import pytest

from pyspark_theflash.base.errors import BinlogCorruptionError
from pyspark_theflash.replication.source.frame import MAGIC, MAX_FRAME_BYTES, FrameReader
from tests.support import binlog_writer

FIRST = binlog_writer.frame(b"one")
SECOND = binlog_writer.frame(b"the second")


def read(content):
    reader = FrameReader(io.BytesIO(content), "f")
    return list(reader), reader.torn, reader.offset


def corruption(content):
    with pytest.raises(BinlogCorruptionError) as caught:
        read(content)
    assert caught.value.file == "f"
    return caught.value.offset, caught.value.reason


def header(length):
    return struct.pack("<IQ", MAGIC, length)


def test_layout():
    assert FIRST.hex() == "04051b1c" + "0300000000000000" + "6f6e65" + "e9b2942a"


def test_frames_come_with_their_offsets():
    frames, torn, end = read(FIRST + SECOND)
    assert frames == [(0, b"one"), (len(FIRST), b"the second")]
    assert (torn, end) == (False, len(FIRST + SECOND))


def test_nothing_is_no_frame():
    assert read(b"") == ([], False, 0)


def test_last_frame_cut_short_is_torn():
    for size in range(1, len(SECOND)):
        assert read(FIRST + SECOND[:size]) == ([(0, b"one")], True, len(FIRST))


def test_wrong_magic():
    assert corruption(FIRST + b"x" + SECOND[1:]) == (len(FIRST), "wrong magic 78051b1c")


def test_two_bytes_that_begin_no_frame():
    assert corruption(FIRST + b"\x04\x00") == (len(FIRST), "wrong magic 0400")


@pytest.mark.parametrize("at", [-1, len(FIRST) - 5])
def test_wrong_checksum(at):
    content = bytearray(FIRST)
    content[at] ^= 1
    assert corruption(bytes(content) + SECOND) == (0, "wrong checksum")


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 2**62, 2**63, 2**64 - 1])
@pytest.mark.parametrize("tail", [b"", b"abc", SECOND])
def test_impossible_length(length, tail):
    assert corruption(FIRST + header(length) + tail) == (
        len(FIRST),
        f"impossible frame length {length}",
    )


@pytest.mark.parametrize("size", [0, 1, 4, 5, 100])
def test_longest_length_cut_short_is_torn(size):
    assert read(FIRST + header(MAX_FRAME_BYTES) + b"a" * size)[1:] == (True, len(FIRST))


@pytest.mark.parametrize("behind", [0, 1, 2, 3, 4, 16, len(SECOND)])
def test_length_that_swallows_whole_frames_is_wrong(behind):
    lie = header(3 + 2**20) + FIRST[12:]
    assert corruption(SECOND + lie + SECOND[:behind]) == (
        len(SECOND),
        "wrong frame length 1048579",
    )


def test_magic_inside_a_payload_is_content():
    inner = binlog_writer.frame(FIRST + SECOND + FIRST)
    assert read(inner)[0] == [(0, FIRST + SECOND + FIRST)]
    assert read(inner[:-5]) == ([], True, 0)
