"""Filters of the jar read only the row groups that may have matching rows, counted in the server.

The store is that of the engine's own test.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests.support.serving import serving
from tests.unit.storage.engine.magic.test_skipping import (
    GROUP_ROWS,
    NAME,
    NUMBERS,
    ROWS,
    Reads,
    reads,  # noqa: F401 (a fixture)
    small_groups,  # noqa: F401 (a fixture)
    store,  # noqa: F401 (a fixture)
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
Query: TypeAlias = Callable[[Any], Any]
Count: TypeAlias = Callable[[Query], tuple[int, int, int]]


@pytest.fixture
def count(spark: "SparkSession", store: Path, reads: Reads, tmp_path: Path) -> Iterator[Count]:  # noqa: F811 (fixtures)
    """Function from a query of the table to its number of rows, and row groups and bytes read."""
    with serving(store, f"unix:{tmp_path}/s") as server:
        loaded = spark.read.format("theflash").load(NAME, store=server.address)

        def counted(query: Query) -> tuple[int, int, int]:
            reads.clear()
            rows = query(loaded).collect()
            return len(rows), reads.groups, reads.size_bytes

        yield counted


def test_spark_filters_on_clustered_values(count: Count) -> None:
    rows, groups, all_bytes = count(lambda table: table)
    assert (rows, groups) == (ROWS, ROWS // GROUP_ROWS)
    days = "day BETWEEN DATE'2019-05-24' AND DATE'2019-06-02'"
    rows, groups, size_bytes = count(lambda table: table.where(days))
    assert (rows, groups) == (1_000, 2)
    assert size_bytes <= all_bytes / 10


def test_spark_lookups(count: Count) -> None:
    for n in (0, 7_777, ROWS - 1):
        for condition in (f"number = {NUMBERS[n]}", f"code = '{NUMBERS[n]:x}'"):
            rows, groups, _ = count(lambda table, which=condition: table.where(which))
            assert rows == 1
            assert groups <= 2


def test_spark_joins_read_the_rows_of_the_other_side(spark: "SparkSession", count: Count) -> None:
    """Spark passes the keys that it has broadcast; a list that is too long is ignored."""
    for chosen, most in (("id % 10000 = 77", 2), ("id % 3 = 1", ROWS // GROUP_ROWS)):
        keys = spark.range(ROWS).where(chosen)
        rows, groups, _ = count(lambda table, keys=keys: table.join(keys.hint("broadcast"), "id"))
        assert (rows, groups) == (keys.count(), most)
    numbers = (
        spark.range(ROWS).where("id % 10000 = 77").selectExpr(f"id - 77 + {NUMBERS[5]} AS number")
    )
    rows, groups, _ = count(lambda table: table.join(numbers.hint("broadcast"), "number"))
    assert rows == 1
    assert groups <= 2
