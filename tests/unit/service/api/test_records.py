"""Records from another machine are checked before they are read."""

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.service.api.records import change_of, change_table
from pyspark_theflash.storage.store.manifest import ManifestChange, Record

CHANGE = ManifestChange([Record("kind", "a", b"body"), Record("kind", "b", b"")], [("kind", "c")])


def test_a_change_is_restored() -> None:
    assert change_of(change_table(CHANGE)) == CHANGE


def test_offsets_beyond_the_data_are_refused() -> None:
    table = change_table(CHANGE).slice(0, 2).combine_chunks()
    # Arrow itself checks the first and the last offset only.
    offsets = pa.array([0, 20, 4], pa.int32()).buffers()[1]
    data = pa.py_buffer(b"body, and more of memory").slice(0, 4)
    body = pa.Array.from_buffers(pa.binary(), 2, [None, offsets, data])
    damaged = table.set_column(2, table.schema.field("body"), body)
    with pytest.raises(CodecError, match="damaged"):
        change_of(damaged)


@pytest.mark.parametrize("column", [0, 1])
def test_records_need_a_kind_and_a_key(column: int) -> None:
    table = change_table(CHANGE)
    nulls = pa.nulls(len(table), pa.string())
    with pytest.raises(CodecError, match="without kind or key"):
        change_of(table.set_column(column, table.schema.field(column), nulls))


def test_other_columns_are_refused() -> None:
    with pytest.raises(CodecError, match="not those of records"):
        change_of(change_table(CHANGE).select(["kind", "key"]))
