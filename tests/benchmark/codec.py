"""Rows decoded a second, by column against one at a time, on captured lineitem rows.

Run with `python -m tests.benchmark.codec`.
"""

import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pyspark_theflash.tidb.codec.row import RowBuffer
from pyspark_theflash.tidb.codec.row_v1 import decode_inserts_v1
from pyspark_theflash.tidb.codec.row_v2 import decode_rows_v2
from tests.support.captured_rows import CapturedRows, captured_rows
from tests.support.decoded import types_of
from tests.support.row_oracle import decode_insert_v1, decode_row_v2, encode_row_v2

ROWS: Final = 40_000
ORACLE_ROWS: Final = 2_000
ROUNDS: Final = 7


def main() -> None:
    """Print one line a format."""
    lineitem = next(rows for rows in captured_rows("tpch") if rows.table.name == "lineitem")
    print(f"{ROWS} lineitem rows, the best of {ROUNDS} rounds, one core of {platform.node()}")
    for name, by_column, one_by_one, rows in (_v1(lineitem), _v2(lineitem)):
        fast = ROWS / _seconds(by_column, RowBuffer.from_list(rows))
        slow = ORACLE_ROWS / _seconds(_each, one_by_one, rows[:ORACLE_ROWS])
        print(
            f"{name}: {fast:>12,.0f} rows/s by column, {slow:,.0f} one by one: {fast / slow:.0f}x"
        )


Case = tuple[str, Callable[[RowBuffer], Any], Callable[[bytes], Any], Sequence[bytes]]


def _v1(lineitem: CapturedRows) -> Case:
    columns, handle = lineitem.columns, lineitem.handle
    types, handle_types = types_of(columns), [spec.type for spec in handle]
    return (
        "row v1 (inserts)",
        lambda rows: decode_inserts_v1(rows, columns, handle),
        lambda row: decode_insert_v1(row, types, handle_types),
        lineitem.inserted[:ROWS],
    )


def _v2(lineitem: CapturedRows) -> Case:
    """The same rows as TiKV would hold them."""
    columns = lineitem.columns
    types, handle_types = types_of(columns), [spec.type for spec in lineitem.handle]
    rows = (decode_insert_v1(row, types, handle_types)[1] for row in lineitem.inserted[:ROWS])
    return (
        "row v2",
        lambda rows: decode_rows_v2(rows, columns),
        lambda row: decode_row_v2(row, types),
        [encode_row_v2(row, types) for row in rows],
    )


def _each(decode: Callable[[bytes], Any], rows: Sequence[bytes]) -> None:
    for row in rows:
        decode(row)


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    """The shortest of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work(*arguments)
        best = min(best, time.perf_counter() - begin)
    return best


if __name__ == "__main__":
    main()
