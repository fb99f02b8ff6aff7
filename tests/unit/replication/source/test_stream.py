import gzip
import io

import pytest

from pyspark_theflash.base.errors import BinlogCorruptionError
from pyspark_theflash.replication.source.stream import CHUNK_BYTES, GzipStream, PlainStream

CONTENT = bytes(range(256)) * 8
WHOLE = gzip.compress(CONTENT, mtime=0)


def plain(content, size=None):
    return PlainStream(io.BytesIO(content), "f", len(content) if size is None else size)


def inflated(content):
    stream = GzipStream(plain(content), "f")
    return read_all(stream, 1000), stream.truncated


def read_all(stream, piece):
    return b"".join(iter(lambda: stream.read(piece), b""))


def test_plain_ends_where_it_was_told_to():
    stream = plain(b"abcdef", 4)
    assert [stream.read(3), stream.read(3), stream.read(3)] == [b"abc", b"d", b""]


def test_plain_file_that_has_shrunk():
    with pytest.raises(BinlogCorruptionError, match=r"truncated below its 9 bytes .* at byte 6"):
        plain(b"abcdef", 9).read(7)


@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 30])
def test_gzip_in_any_pieces(piece):
    assert read_all(GzipStream(plain(WHOLE), "f"), piece) == CONTENT


def test_gzip_of_several_members():
    assert inflated(WHOLE + gzip.compress(b"") + WHOLE) == (CONTENT * 2, False)


def test_gzip_larger_than_a_piece():
    content = b"\0" * (3 * CHUNK_BYTES + 1)
    assert inflated(gzip.compress(content)) == (content, False)


def test_gzip_cut_anywhere_gives_what_was_there():
    for size in range(len(WHOLE)):
        content, truncated = inflated(WHOLE[:size])
        assert CONTENT.startswith(content)
        assert truncated
    assert content == CONTENT


def test_gzip_cut_in_a_second_member():
    assert inflated(WHOLE + WHOLE[:5]) == (CONTENT, True)


@pytest.mark.parametrize("content", [b"not gzip at all", WHOLE + b"garbage", WHOLE + b"\0" * 512])
def test_what_is_not_gzip(content):
    with pytest.raises(BinlogCorruptionError, match="invalid gzip data"):
        inflated(content)


def test_flag_for_a_header_that_reaches_beyond_the_end():
    flipped = WHOLE[:3] + b"\x04" + WHOLE[4:]
    for content in (flipped, WHOLE + flipped):
        with pytest.raises(BinlogCorruptionError, match="header extends past the end"):
            inflated(content)
