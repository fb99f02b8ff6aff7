"""Frames: written frames are read back, cut ones are a prefix, changed ones are detected."""

import io

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pyspark_theflash.base.errors import BinlogCorruptionError, CodecError, UnsupportedError
from pyspark_theflash.replication.source.frame import MAGIC, FrameReader
from pyspark_theflash.replication.source.prewrite import parse_prewrite
from pyspark_theflash.replication.source.wire import decode_entities
from tests.support import binlog_writer

payloads = st.lists(st.binary(max_size=60), max_size=6)


def read(content):
    """(payloads, offset of the end or the torn tail, torn)."""
    reader = FrameReader(io.BytesIO(content), "f")
    return [payload for _, payload in reader], reader.offset, reader.torn


@given(payloads)
def test_what_is_written_is_read(messages):
    content = binlog_writer.frames(messages)
    assert read(content) == (messages, len(content), False)


@given(payloads, st.data())
def test_any_cut_gives_the_whole_frames_before_it(messages, data):
    content = binlog_writer.frames(messages)
    size = data.draw(st.integers(0, len(content)))
    ends = [len(binlog_writer.frames(messages[:n])) for n in range(len(messages) + 1)]
    whole = max(n for n, end in enumerate(ends) if end <= size)
    assert read(content[:size]) == (messages[:whole], ends[whole], ends[whole] < size)


@given(payloads, st.data())
def test_any_changed_bit_is_found_where_it_is(messages, data):
    assume(messages)
    content = bytearray(binlog_writer.frames(messages))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    starts = [len(binlog_writer.frames(messages[:n])) for n in range(len(messages))]
    with pytest.raises(BinlogCorruptionError) as caught:
        read(bytes(content))
    assert caught.value.offset == max(start for start in starts if start <= bit // 8)


@given(payloads, st.binary(min_size=1, max_size=40))
def test_garbage_behind_frames(messages, garbage):
    content = binlog_writer.frames(messages)
    if MAGIC.to_bytes(4, "little").startswith(garbage):
        assert read(content + garbage) == (messages, len(content), True)
        return
    assume(garbage[:4] != MAGIC.to_bytes(4, "little"))
    with pytest.raises(BinlogCorruptionError) as caught:
        read(content + garbage)
    assert caught.value.offset == len(content)


@given(st.binary(max_size=60))
@example(binlog_writer.prewrite(1, b"value"))
def test_any_bytes_are_a_message_or_a_typed_error(payload):
    try:
        entities = decode_entities(payload, "f", 0)
    except (BinlogCorruptionError, UnsupportedError):
        return
    assert entities
    for entity in entities:
        assert 0 < entity.start_ts < 2**64
        assert 0 <= entity.commit_ts < 2**64


@given(st.binary(max_size=60))
@example(binlog_writer.prewrite_value(1, {7: [(0, b"row")]}))
def test_any_bytes_are_changes_or_a_typed_error(payload):
    try:
        prewrite = parse_prewrite(payload)
    except CodecError:
        return
    for mutation in prewrite.mutations:
        rows = mutation.inserted, mutation.updated, mutation.deleted
        assert len(mutation.sequence) == sum(map(len, rows))
