"""Statistics and use of a store's partitions."""

from collections import Counter
from collections.abc import Collection, Sequence

from pyspark_theflash.base.errors import OptionError
from pyspark_theflash.storage.engine.api import PartitionStats
from pyspark_theflash.storage.engine.magic.layout import Layouts
from pyspark_theflash.storage.store.partition import PartitionTable, partition_of


def partition_stats(table: PartitionTable, layouts: Layouts) -> Sequence[PartitionStats]:
    """Return each partition's statistics of the files in these layouts."""
    files, size_bytes = Counter[int](), Counter[int]()
    for info in (f for i in layouts.tables() for f in layouts[i].files):
        for path in info.paths:
            files[partition_of(path)] += 1
            size_bytes[partition_of(path)] += info.size_bytes
    return [
        PartitionStats(n, table.target(n), files[n], size_bytes[n], table.fault(n))
        for n in table.numbers()
    ]


def check_unused(
    partition: int, table: PartitionTable, layouts: Layouts, retired: Collection[str]
) -> None:
    """Raise `OptionError` unless a partition exists and is not in use."""
    if not partition or partition not in table.numbers():
        raise OptionError("partition", f"there is no partition {partition} to remove")
    regions = (region for i in layouts.tables() for region in layouts[i].regions)
    if any(partition in region.partitions for region in regions):
        reason = "still has regions: theflash regions lists them, theflash move moves them"
        raise OptionError("partition", f"{partition} {reason}")
    if any(partition_of(path) == partition for path in (*layouts.paths(), *retired)):
        raise OptionError("partition", f"{partition} still has files that running scans need")
