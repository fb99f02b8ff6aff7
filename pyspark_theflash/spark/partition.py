"""What Spark carries to an executor."""

from pyspark.sql.datasource import InputPartition

from pyspark_theflash.base.types import RegionID
from pyspark_theflash.read.plan.scan_plan import ScanTask


class ScanPartition(InputPartition):
    """Spark's wrapper of a task: made on the driver, read on an executor, maybe more than once.

    `regions` are all that the plan has of the task's physical table, its own among them.
    """

    value: ScanTask

    def __init__(self, task: ScanTask, regions: frozenset[RegionID]) -> None:
        super().__init__(task)
        self.regions = regions
