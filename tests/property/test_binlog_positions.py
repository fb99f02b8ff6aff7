"""Positions: a stream cut anywhere and resumed is the same stream."""

import gzip
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from pyspark_theflash.base.fs import LocalFileSystem
from pyspark_theflash.replication.pump.spool import Spool
from pyspark_theflash.replication.source.file import FileSource
from tests.support import binlog_writer

payloads = st.lists(
    st.one_of(
        st.builds(binlog_writer.prewrite, st.integers(1, 99), st.binary(max_size=40)),
        st.builds(lambda ts: binlog_writer.commit(ts, ts + 1), st.integers(1, 99)),
        st.builds(lambda ts: binlog_writer.merged(ts, ts + 1, b"v"), st.integers(1, 99)),
    ),
    max_size=8,
)


def content(entities):
    return [(e.kind, e.start_ts, e.commit_ts, e.payload) for e in entities]


def in_pieces(make_source, sizes):
    """The same stream, read with a new source for each piece, of `sizes` entities."""
    entities, position = [], None
    for size in [*sizes, None]:
        source = make_source()
        entities += islice(source.entities(position), size)
        position = source.position or position
    return entities


def once(entities):
    """Remove repeated entities: the prewrite of a message that was divided."""
    seen = {}
    for entity in entities:
        seen.setdefault((entity.file, entity.offset, entity.kind), entity)
    return list(seen.values())


@given(st.lists(payloads, max_size=3), st.lists(st.integers(0, 4), max_size=6), st.booleans())
def test_files_in_pieces(tmp_path_factory, files, sizes, zipped):
    folder = tmp_path_factory.mktemp("binlog")
    for number, messages in enumerate(files):
        data = binlog_writer.frames(messages)
        name = f"{number}.gz" if zipped else str(number)
        (folder / name).write_bytes(gzip.compress(data) if zipped else data)
    whole = list(FileSource(folder).entities())
    assert once(in_pieces(lambda: FileSource(folder), sizes)) == whole


@given(payloads, st.data())
def test_polls_of_a_file_that_grows(tmp_path_factory, messages, data):
    path = tmp_path_factory.mktemp("binlog") / "binlog"
    whole = binlog_writer.frames(messages)
    entities, position = [], None
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=5))
    for size in [*sorted(cuts), len(whole)]:
        path.write_bytes(whole[:size])
        source = FileSource(path)
        entities += source.entities(position)
        position = source.position
    assert entities == list(FileSource(path).entities())


@given(st.lists(payloads, max_size=6), st.integers(1, 200))
def test_a_spool_that_is_read_and_dropped_as_it_grows(tmp_path_factory, batches, file_bytes):
    spool = Spool(
        tmp_path_factory.mktemp("spools") / "spool", LocalFileSystem(), file_bytes=file_bytes
    )
    read, position = [], None
    for messages in batches:
        spool.append(messages)
        source = spool.source()
        read += content(source.entities(position))
        position = source.position
        if position is not None:
            spool.drop_before(position)
    spool.close()
    path = binlog_writer.write_file(
        tmp_path_factory.mktemp("binlog") / "all", [m for messages in batches for m in messages]
    )
    assert read == content(FileSource(path).entities())
