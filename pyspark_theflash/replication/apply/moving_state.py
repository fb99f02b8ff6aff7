"""State of a writer that derives the rows which DDL moves to other partitions.

Besides the records of every stream (`stream_state`):

    move       completed moves of rows by DDL
"""

from pyspark_theflash.base.types import TimeStamp
from pyspark_theflash.replication.apply.move import MOVE_KIND, move_record
from pyspark_theflash.replication.apply.stream_state import SchemaSource, StreamState
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.storage.store.scope import TableScope
from pyspark_theflash.tidb.schema.history import SchemaHistory
from pyspark_theflash.tidb.schema.lineage import Lineage, Move


class MovingState(StreamState):
    """A writer's records, with the moves that are to be done."""

    lineage: Lineage

    def __init__(
        self, engine: WriterEngine, schema: SchemaSource, scope: TableScope | None = None
    ) -> None:
        """Read the state of a store, like `StreamState`."""
        self._done_moves = set(engine.read([MOVE_KIND]).of_kind(MOVE_KIND))
        super().__init__(engine, schema, scope)

    def next_move(self, ts: TimeStamp) -> Move | None:
        """Return the first pending move of rows at or below `ts`; None if there is none."""
        return self._moves[0] if self._moves and self._moves[0].ts <= ts else None

    def finish_move(self, move: Move) -> None:
        """Mark a move as published."""
        self._done_moves.add(move_record(move).key)
        self._moves.remove(move)

    def _set_history(self, history: SchemaHistory) -> None:
        super()._set_history(history)
        self.lineage = Lineage(history)
        self._moves = [
            move
            for move in self.lineage.moves
            if move.ts > history.start_ts
            and self.replicates(move.table_id)
            and move_record(move).key not in self._done_moves
        ]
