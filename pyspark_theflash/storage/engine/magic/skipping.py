"""Choose the row groups of a file that may have rows of a scan, by their statistics and filters.

A column counts only if the file has its value for every row, in the type of the scan or in a
narrower integer: not if DDL added the column later or made it from another, in some rows at least.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pyspark_theflash.storage.engine.api import Bounds, PartCondition
from pyspark_theflash.storage.engine.magic.file_cache import OpenFile
from pyspark_theflash.storage.engine.magic.statistics import ColumnStatistics
from pyspark_theflash.storage.mvcc.project import ScanColumn, is_whole
from pyspark_theflash.storage.mvcc.version import column_name


def possible_groups(file: OpenFile, condition: PartCondition | None) -> Sequence[bool]:
    """Return for each row group whether it may have rows for which the condition is true.

    Raises `CorruptionError`.
    """
    groups = len(file.footer.group_rows)
    if condition is None or not (statistics := file.statistics.columns):
        return [True] * groups
    if groups == 1 and file.has_cached(0, (column_name(c.id) for c in condition.columns)):
        # Evaluating the rows takes no longer.
        return [True]
    # Only the names of the stored columns matter.
    stored = dict.fromkeys(file.footer.names, pa.nulls(0))
    usable = {
        column.id: statistics[column_name(column.id)]
        for column in condition.columns
        if is_whole(stored, column) and _is_comparable(statistics, column)
    }
    types = {column.id: column.type for column in condition.columns}
    bounds = Bounds(
        groups,
        {id: each.low.cast(types[id]) for id, each in usable.items()},
        {id: each.high.cast(types[id]) for id, each in usable.items()},
        {id: each.nulls > 0 for id, each in usable.items()},
    )
    possible = condition.possible(bounds)
    sought = {column_name(id): v for id, v in condition.sought.items() if id in usable}
    return [
        bool(possible[group]) and all(file.may_have(group, *each) for each in sought.items())
        for group in range(groups)
    ]


def _is_comparable(statistics: Mapping[str, ColumnStatistics], column: ScanColumn) -> bool:
    """Return whether a column has statistics, of values that need no conversion."""
    if (own := statistics.get(column_name(column.id))) is None:
        return False
    if own.type == column.type:
        return True
    both_signed = pa.types.is_signed_integer(own.type) and pa.types.is_signed_integer(column.type)
    both_unsigned = pa.types.is_unsigned_integer(own.type) and pa.types.is_unsigned_integer(
        column.type
    )
    return bool((both_signed or both_unsigned) and own.type.bit_width < column.type.bit_width)
