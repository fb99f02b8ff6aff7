"""Upkeep of a store of the engine delta while its writer runs."""

from collections.abc import Iterable

from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.replication.apply.stream_state import StreamState
from pyspark_theflash.spark.delta.engine import DeltaEngine


class DeltaUpkeep:
    """The interface of `Maintenance`. It has no commands: `DeltaMaintenance` works on a store."""

    is_stopping = False
    discarded = 0

    def __init__(self, engine: DeltaEngine, state: StreamState) -> None:
        self._engine, self.memory = engine, state
        self.interval_ms: int | None = None

    def poll(self) -> None:
        """Do nothing: there are no commands."""

    def set_interval(self, interval_ms: int) -> None:
        """Poll the source at this interval, until the writer ends."""
        self.interval_ms = interval_ms

    def touched(self, tables: Iterable[PhysicalTableID]) -> None:
        """Do nothing: whole tables are compacted."""

    def drain(self) -> None:
        """Do nothing: nothing runs in the background."""
