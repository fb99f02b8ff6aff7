"""Rows of the captured binlogs, decoded by column and by the oracle."""

import numpy as np
import pytest

from pyspark_theflash.tidb.codec.field_type import FieldType, MySQLType
from pyspark_theflash.tidb.codec.handle import decode_common_handles, encode_common_handles
from pyspark_theflash.tidb.codec.row import RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_inserts_v1, decode_rows_v1, decode_updates_v1
from tests.support.captured_rows import CapturedRows, captured_rows
from tests.support.decoded import assert_decoded, types_of
from tests.support.row_oracle import (
    decode_insert_v1,
    decode_row_v1,
    decode_update_v1,
    encode_handle,
)

INT_HANDLE = FieldType(MySQLType.LONGLONG)


@pytest.mark.parametrize(("workload", "every"), [("bank", 5), ("tpcc", 15), ("tpch", 100)])
def test_some_equal_to_the_oracle(workload: str, every: int) -> None:
    for rows in captured_rows(workload):
        _check_inserts(rows, every)
        _check_updates(rows, every)
        _check_deletes(rows, every)


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["bank", "tpcc", "tpch"])
def test_all_equal_to_the_oracle(workload: str) -> None:
    test_some_equal_to_the_oracle(workload, 1)


def _check_inserts(rows: CapturedRows, every: int) -> None:
    sample = rows.inserted[::every]
    types, handle_types = types_of(rows.columns), [spec.type for spec in rows.handle]
    handles, decoded = decode_inserts_v1(RowBuffer.from_list(sample), rows.columns, rows.handle)
    expected = [decode_insert_v1(row, types, handle_types or [INT_HANDLE]) for row in sample]
    assert_decoded(decoded, rows.columns, [row for _, row in expected])
    if not isinstance(handles, tuple):
        assert handles.to_pylist() == [handle[0] for handle, _ in expected]
        return
    columns = [column.to_pylist() for column in handles]
    assert list(zip(*columns, strict=True)) == [tuple(handle) for handle, _ in expected]
    encoded = encode_common_handles(handles, handle_types, [-1] * len(handles))
    assert encoded.to_pylist() == [encode_handle(handle, handle_types) for handle, _ in expected]
    for column, again in zip(handles, decode_common_handles(encoded, handle_types), strict=True):
        assert again.equals(column)


def _check_updates(rows: CapturedRows, every: int) -> None:
    sample = rows.updated[::every]
    old, new = decode_updates_v1(RowBuffer.from_list(sample), rows.columns)
    expected = [decode_update_v1(row, types_of(rows.columns)) for row in sample]
    assert_decoded(old, rows.columns, [row for row, _ in expected])
    assert_decoded(new, rows.columns, [row for _, row in expected])


def _check_deletes(rows: CapturedRows, every: int) -> None:
    sample = rows.deleted[::every]
    decoded = decode_rows_v1(RowBuffer.from_list(sample), rows.columns)
    assert_decoded(
        decoded, rows.columns, [decode_row_v1(r, types_of(rows.columns)) for r in sample]
    )
    assert decoded.unknown_ids == ({-1} if rows.table.has_rowid and sample else set())


def test_a_selection_of_rows() -> None:
    rows = RowBuffer.from_list([b"a", b"", b"bcd", b"e"])
    chosen = rows.select(np.array([3, 2]))
    assert chosen.offsets.tolist() == [0, 1, 4]
    assert chosen.buffer[:4].tobytes() == b"ebcd"
