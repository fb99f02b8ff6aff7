"""The bytes of an Arrow stream, as they come in frames."""

import random

import pytest

from pyspark_theflash.service.client.remote import _ALLOCATED_BYTES_MAX, _Source
from pyspark_theflash.service.wire.frame import End


class Frames:
    """A connection on which so many bytes come, in pieces."""

    def __init__(self, content, sizes):
        self._content, self._sizes, self._at = content, list(sizes), 0

    def data(self, *, is_first):
        return self._sizes.pop(0) if self._sizes else End()

    def receive_into(self, view):
        view[:] = self._content[self._at : self._at + len(view)]
        self._at += len(view)


@pytest.mark.parametrize("size", [0, 1, _ALLOCATED_BYTES_MAX - 1, _ALLOCATED_BYTES_MAX, 40_000_001])
def test_pieces_are_put_together(size):
    content = memoryview(random.Random(size).randbytes(size))
    pieces = [4 << 20] * (size // (4 << 20)) + [size % (4 << 20)]
    source = _Source(Frames(content.cast("b"), pieces))
    assert memoryview(source.read(size)) == content.cast("b")
    assert not source.has_data()


def test_what_is_cut_is_shorter():
    source = _Source(Frames(memoryview(bytes(100)).cast("b"), [60, 40]))
    assert len(source.read(1000)) == 100
