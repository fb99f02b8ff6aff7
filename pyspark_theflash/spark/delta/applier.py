"""Application of transactions to a store of Delta tables.

The driver groups transactions to batches as for every engine. Their rows are decoded, assigned to
partitions and written by executors; then the driver publishes the batch.
"""

from pyspark_theflash.base.types import PhysicalTableID
from pyspark_theflash.replication.apply.applier import Applier, Compact, TransactionBatch
from pyspark_theflash.replication.apply.state import WriterState
from pyspark_theflash.spark.delta.engine import DeltaEngine
from pyspark_theflash.storage.engine.api import VersionBatch
from pyspark_theflash.tidb.schema.model import TableInfo
from pyspark_theflash.tidb.schema.owners import Owners


class DeltaApplier(Applier):
    """An `Applier` whose batches are decoded by executors."""

    _engine: DeltaEngine

    def __init__(
        self,
        engine: DeltaEngine,
        state: WriterState,
        *,
        may_guess: bool = False,
        compact: Compact | None = None,
    ) -> None:
        super().__init__(engine, state, may_guess=may_guess, compact=compact)

        def owner(physical_id: PhysicalTableID) -> TableInfo | None:
            event = Owners(state.history).last.get(physical_id)
            return None if event is None else event.table

        engine.owner = owner

    def _decode(self, batch: TransactionBatch) -> list[VersionBatch]:
        """Have executors decode a batch and write it to its tables; return nothing to publish."""
        failures = self._engine.write(batch.changes)
        for failure in sorted(failures, key=lambda failure: failure.ts):
            self._set_aside(failure)
        self.report.rows += sum(changes.count for changes in batch.changes)
        return []
