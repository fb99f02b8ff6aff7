"""JSON Lines files of rows: one compact JSON array per row, one element per column.

An element is `null`, a string in the form of `tidb.codec.text`, or `{"x": hex}` in a binary column.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pyspark_theflash.base.errors import CodecError
from pyspark_theflash.tidb.codec.document import SHAPE_ERRORS, load


def format_jsonl(columns: Sequence[pa.Array]) -> Iterator[str]:
    """Format columns from `format_column` as lines, without line ends."""
    encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
    for row in zip(*map(_json_values, columns), strict=True):
        yield encode(row)


def parse_jsonl(lines: Iterable[str]) -> list[pa.Array]:
    """Parse lines into columns for `parse_column`.

    Returns:
        `binary` arrays for columns with bytes, and `string` arrays for others, also for columns of
        nulls. Without lines there are no columns.

    Raises:
        CodecError: A line is not a row, or rows differ in their number of columns.
    """
    try:
        rows = [load(line) for line in lines]
        if not all(isinstance(row, list) for row in rows):
            raise ValueError
        return [_text_array(column) for column in zip(*rows, strict=True)]
    except SHAPE_ERRORS:
        raise CodecError("JSON lines", "a line is not a valid row") from None


def _json_values(column: pa.Array) -> list[object]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_binary(column.type):
        return [None if value is None else {"x": value.hex()} for value in values]
    return values


def _text_array(values: Sequence[object]) -> pa.Array:
    if any(isinstance(value, dict) for value in values):
        return pa.array([None if value is None else _bytes(value) for value in values], pa.binary())
    return pa.array(values, pa.string())


def _bytes(value: object) -> bytes:
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError
    return bytes.fromhex(value["x"])
