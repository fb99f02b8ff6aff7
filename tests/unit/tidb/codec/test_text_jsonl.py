"""Row files line by line."""

import pyarrow as pa
import pytest

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.jsonl import format_jsonl, parse_jsonl


def test_lines() -> None:
    columns = [
        pa.array(['é\t"', None, ""]),
        pa.array([b"\x00\xff", b"", None]),
        pa.array([None, None, None], pa.string()),
    ]
    lines = ['["é\\t\\"",{"x":"00ff"},null]', '[null,{"x":""},null]', '["",null,null]']
    assert list(format_jsonl(columns)) == lines
    parsed = parse_jsonl(lines)
    assert [column.type for column in parsed] == [column.type for column in columns]
    assert [column.to_pylist() for column in parsed] == [c.to_pylist() for c in columns]


def test_no_lines_have_no_columns() -> None:
    assert parse_jsonl([]) == []


@pytest.mark.parametrize(
    "lines",
    [
        [""],
        ["{}"],
        ['"a"'],
        ["[1]"],
        ["[true]"],
        ['[["a"]]'],
        ['["a"'],
        ['["a"],["b"]'],
        ['["a"]', '["a","b"]'],
        ['["\\ud800"]'],
        ['[{"x":"0"}]'],
        ['[{"x":"zz"}]'],
        ['[{"x":1}]'],
        ['[{"y":"00"}]'],
        ['[{"x":"00","y":""}]'],
        ['[{"x":"00"}]', '["text"]'],
        ["[" * 100_000],
    ],
)
def test_what_is_no_row_is_refused(lines: list[str]) -> None:
    with pytest.raises(CodecError) as caught:
        parse_jsonl(lines)
    assert caught.value.__suppress_context__
