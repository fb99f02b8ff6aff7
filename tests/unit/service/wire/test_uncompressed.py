"""Compressed Arrow streams, which a client refuses before it expands them."""

from contextlib import suppress

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError, ProtocolError
from pyspark_theflash.service.api.records import batches_of
from pyspark_theflash.service.client.theflash import connect
from pyspark_theflash.service.wire.uncompressed import open_uncompressed
from pyspark_theflash.testing.stores import StoreBuilder, id_column, table_info
from tests.support.serving import serving

TABLE = table_info(7, "shop.items", [id_column()])
NEW_STREAM = pa.ipc.new_stream
WORDS = pa.array(["x", "y", "x", None] * 50)
COLUMNS = {
    "numbers": pa.array(range(200)),
    "texts": WORDS,
    "dictionary": WORDS.dictionary_encode(),
    "nested": pa.array([[1], [], None, [2, 3]] * 50),
    "nulls": pa.nulls(200),
}


def stream(table, compression=None):
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with NEW_STREAM(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=70)
    return sink.getvalue()


def opened(content):
    return open_uncompressed(pa.BufferReader(content).read_buffer, ValueError)


@pytest.mark.parametrize("name", COLUMNS)
def test_what_is_not_compressed_is_read(name):
    for table in (pa.table({name: COLUMNS[name]}), pa.table({name: COLUMNS[name][:0]})):
        assert opened(stream(table)).read_all().equals(table)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("name", COLUMNS)
def test_what_is_compressed_is_not(name, compression):
    with pytest.raises(ValueError, match="compressed"):
        opened(stream(pa.table({name: COLUMNS[name]}), compression)).read_all()


def test_damage_is_noticed():
    """Any changed byte of the first messages is an error, or a stream that is not larger."""
    content = stream(pa.table({"dictionary": COLUMNS["dictionary"]})).to_pybytes()
    sizes = []
    for at in range(600):
        flipped = bytearray(content)
        flipped[at] ^= 0xFF
        with suppress(ValueError, OSError, pa.ArrowException):
            sizes.append(opened(bytes(flipped)).read_all().get_total_buffer_size())
    assert len(sizes) < 500
    assert max(sizes) <= len(content)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_server_that_compresses(tmp_path, monkeypatch, compression):
    made = StoreBuilder(tmp_path / "store", TABLE).publish(200, {TABLE: [(1, 110, [1])]})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with serving(made.path, f"unix:{tmp_path}/s") as server, connect(server.address) as api:
        ticket = api.plan("shop.items").splits[0].ticket
        assert api.scan(ticket).read_all().num_rows == 1
        monkeypatch.setattr(pa.ipc, "new_stream", lambda *to: NEW_STREAM(*to, options=options))
        with pytest.raises(ProtocolError, match="compressed"):
            api.scan(ticket).read_all()


def test_streams_in_cells():
    """The rows that a writer elsewhere receives."""
    inner = pa.table({"numbers": COLUMNS["numbers"]})
    plain, bomb = (
        pa.record_batch({"batch": pa.array([stream(inner, how).to_pybytes()], pa.binary())})
        for how in (None, "zstd")
    )
    assert pa.Table.from_batches(batches_of([plain])).equals(inner)
    with pytest.raises(CodecError, match="compressed"):
        list(batches_of([bomb]))
