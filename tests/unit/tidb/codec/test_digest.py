"""The order-independent checksum, against its rule row by row and against captured tables."""

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from pyspark_theflash.tidb.codec.digest import TableDigest, row_digests
from pyspark_theflash.tidb.codec.jsonl import parse_jsonl
from pyspark_theflash.tidb.schema.model import ROWID_NAME
from tests.support.row_files import row_files

Row = tuple[str | bytes | None, ...]

ROWS: list[Row] = [
    ("1", "", b"", None),
    ("1", "", b"", None),
    ("2", "日本;S1:x;", b"\x00;\xff", "N;"),
    (None, None, None, None),
    ("1;S", "0:", b"S1:1;", ""),
]


def digest_of_row(row: Row) -> bytes:
    """Compute a digest by the rule in the head of `truth.json`."""
    parts = []
    for value in row:
        if value is None:
            parts.append(b"N;")
        elif isinstance(value, str):
            raw = value.encode()
            parts.append(b"S%d:%s;" % (len(raw), raw))
        else:
            parts.append(b"X%d:%s;" % (len(value), value))
    return hashlib.sha256(b"".join(parts)).digest()[:16]


def as_columns(rows: Sequence[Row]) -> list["pa.Array[Any]"]:
    types = [pa.string(), pa.string(), pa.binary(), pa.string()]
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return [pa.array(values, to) for values, to in zip(columns, types, strict=True)]


def digest_of(*batches: Sequence[Row]) -> TableDigest:
    digest = TableDigest()
    for batch in batches:
        digest.update(as_columns(batch))
    return digest


def test_rows_follow_the_rule() -> None:
    expected = [digest_of_row(row) for row in ROWS]
    assert row_digests(as_columns(ROWS)) == expected
    assert row_digests([column.slice(1, 3) for column in as_columns(ROWS)]) == expected[1:4]
    assert row_digests(as_columns([])) == []
    assert row_digests(as_columns(ROWS)[:1])[0] == hashlib.sha256(b"S1:1;").digest()[:16]


def test_table_is_the_sum_of_its_rows() -> None:
    numbers = [int.from_bytes(digest_of_row(row), "big") for row in ROWS] * 40
    digest = digest_of(ROWS * 40)
    assert digest.hexdigest() == f"{sum(numbers) % 2**128:032x}"
    assert digest.rows == len(numbers)


def test_order_and_batches_do_not_matter() -> None:
    shuffled = ROWS.copy()
    random.Random(1).shuffle(shuffled)
    assert digest_of(shuffled[:2], [], shuffled[2:]).hexdigest() == digest_of(ROWS).hexdigest()


def test_equal_rows_count() -> None:
    assert digest_of(ROWS[:1]).hexdigest() != digest_of(ROWS[:2]).hexdigest()
    assert digest_of(ROWS[:2], ROWS[:1]).hexdigest() != digest_of(ROWS[:1]).hexdigest()


def test_no_rows() -> None:
    assert TableDigest().hexdigest() == digest_of([]).hexdigest() == "0" * 32
    assert TableDigest().rows == 0


@pytest.mark.parametrize("workload", ["bank", "tpcc"])
def test_captured_tables(workload: str) -> None:
    for file in row_files(workload):
        texts = parse_jsonl(file.lines())
        digest, without_rowid = TableDigest(), TableDigest()
        digest.update(texts)
        assert (digest.rows, digest.hexdigest()) == (file.rows, file.checksum), str(file)
        if file.checksum_without_rowid is not None:
            assert file.columns[-1] == ROWID_NAME
            without_rowid.update(texts[:-1])
            assert without_rowid.hexdigest() == file.checksum_without_rowid, str(file)
