"""What Spark carries to an executor."""

from pyspark.sql.datasource import InputPartition

from pyspark_theflash.planner.scan_plan import ScanTask


class ScanPartition(InputPartition):
    """Spark's wrapper of a task: made on the driver, read on an executor, maybe more than once."""

    value: ScanTask

    def __init__(self, task: ScanTask) -> None:
        super().__init__(task)
