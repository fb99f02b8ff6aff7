"""Visibility of versions as a Spark query.

Of each row, a snapshot sees the newest version with `_commit_ts <= ts`, unless that is a delete. A
version is therefore visible if it is a put at or below `ts` and no version of the same row between
it and `ts` supersedes it. Only versions that are not `_plain` supersede others, and they are in
partitions of their own, so a table of inserts is read without a join:

    puts at or below ts   LEFT ANTI JOIN   versions at or below ts that are not plain
                          ON same row, newer
"""

from collections.abc import Iterable

from pyspark.sql import DataFrame
from pyspark.sql.functions import col, lit

from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.spark.delta.encoding import COMMON, PHYSICAL, PLAIN
from pyspark_theflash.storage.mvcc.version import COMMIT_TS, HANDLE, OP, Op


def visible(
    versions: DataFrame,
    physical_ids: Iterable[PhysicalTableID],
    ts: TimeStamp,
    *,
    is_common: bool,
) -> DataFrame:
    """Return the versions of these physical tables that a snapshot at `ts` sees."""
    handle = COMMON if is_common else HANDLE
    until = versions.where(col(PHYSICAL).isin(list(physical_ids)) & (col(COMMIT_TS) <= lit(ts)))
    newer = until.where(~col(PLAIN)).select(
        col(PHYSICAL).alias("newer_physical"),
        col(handle).alias("newer_handle"),
        col(COMMIT_TS).alias("newer_ts"),
    )
    is_superseded = (
        (col(PHYSICAL) == col("newer_physical"))
        & (col(handle) == col("newer_handle"))
        & (col("newer_ts") > col(COMMIT_TS))
    )
    puts = until.where(col(OP) == lit(int(Op.PUT)))
    return puts.join(newer, is_superseded, "left_anti")
