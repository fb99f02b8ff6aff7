"""Methods of an engine that keeps each table whole: it has neither regions nor partitions."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pyspark_theflash.base.errors import UnsupportedError
from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.storage.engine.api import CompactionReport, Handle
from pyspark_theflash.storage.mvcc.project import ScanColumn


class WholeTables:
    """Base class of an `Engine`. `engine_name` is for error messages."""

    engine_name: ClassVar[str]

    def is_behind(self, physical_id: PhysicalTableID) -> bool:
        return False

    def flush(
        self, physical_id: PhysicalTableID, columns: Sequence[ScanColumn]
    ) -> CompactionReport:
        return CompactionReport()

    def divide(self, physical_id: PhysicalTableID, bounds: Sequence[Handle]) -> None:
        pass

    def split(self, *_: object) -> CompactionReport:
        raise UnsupportedError("splitting regions", self.engine_name)

    def merge(self, *_: object) -> CompactionReport:
        raise UnsupportedError("merging regions", self.engine_name)

    def move(self, *_: object) -> CompactionReport:
        raise UnsupportedError("moving regions", self.engine_name)

    def copy(self, *_: object) -> CompactionReport:
        raise UnsupportedError("copying regions", self.engine_name)

    def add_partition(self, folder: Path) -> int:
        raise UnsupportedError("partitions", self.engine_name)

    def remove_partition(self, partition: int) -> None:
        raise UnsupportedError("partitions", self.engine_name)
