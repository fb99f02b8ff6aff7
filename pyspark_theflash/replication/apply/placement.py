"""Into which partitions a transaction wrote, where its binlog leaves that open.

A binlog names the table, not the partition, and the schema version that BEGIN met. With metadata
locks a table is taken as it is when a statement first meets it. A statement that is a transaction
of its own names the version that TiDB has when the statement ends, so maybe one that TiDB loaded
while it ran. So what commits after TRUNCATE, DROP or EXCHANGE PARTITION and began before every TiDB
had loaded it may have gone by the old definition or by the new one:

    BEGIN (59) ── UPDATE other ─────────────────────── INSERT part ── COMMIT     by 60, names 59
    BEGIN (59) ── UPDATE part ─────────────────────────────────────── COMMIT     by 59, names 59
                                      INSERT part ───────────────────            by 59, names 60
                                 TRUNCATE: version 60 ── loaded here

Who can tell, in this order:

    TiKV, where the schema comes from a running cluster: the row's key has the transaction's write
    under one of the two
    the rows from before: what is updated or deleted was there, what is inserted was not

A table is met once, so one row that is placed differently answers for all. Where REORGANIZE
PARTITION has rows written twice under one of the two only, what a transaction does may tell, too.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pyspark_theflash.base.errors import NoPartitionError, UnknownPartitionError, UnsupportedError
from pyspark_theflash.base.types import PhysicalTableID, TimeStamp
from pyspark_theflash.replication.apply.changes import TableChanges
from pyspark_theflash.replication.apply.double_write import handle_of_insert, repeats_itself
from pyspark_theflash.replication.source.event import Transaction
from pyspark_theflash.replication.source.prewrite import INSERT, TableMutations
from pyspark_theflash.storage.engine.api import WriterEngine
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.gap import GAP_KIND, gaps_of
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.schema.lineage import double_writes
from pyspark_theflash.tidb.schema.model import TableInfo

HasWritten: TypeAlias = Callable[[RawKey, TimeStamp], bool | None]
"""(record key, start_ts) -> whether the transaction wrote there; None: nobody knows."""
Places: TypeAlias = Mapping[int | bytes, Set[PhysicalTableID]]
"""Rows by handle, and where they would be: in two places while partitions are reorganised."""

# Of many rows that come and go in a transaction each may say nothing.
_MOST_ROWS: Final = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AmbiguousPlacement:
    """The changes of a transaction to a table, and the definitions that may have placed them.

    `table` is the one to decode the rows under, the first of `candidates` the likeliest. With
    `is_likely` that one is taken where nobody can tell, unless it may hide second writes.
    """

    table: TableInfo
    candidates: Sequence[TableInfo]
    mutations: TableMutations
    transaction: Transaction
    is_likely: bool = False

    def told(self, has_written: HasWritten) -> TableInfo | None:
        """The definition that did, as the rows themselves tell, or TiKV; None if these do not.

        Raises:
            CodecError, SchemaOutdatedError: the rows cannot be read, as `to_versions` says.
            ServiceUnavailableError: who can be asked does not answer.
        """
        if len(self.candidates) == 1 or not self._possible:
            return self.candidates[0]  # and what is wrong with it will be said
        if len(self._possible) == 1 or not self._differing:
            return self._possible[0][0]
        return self._asked(self._possible, self._differing, has_written)

    def guessed(self, engine: WriterEngine, *, may_guess: bool) -> TableInfo:
        """The definition that did, as the rows from before tell, or the likeliest.

        `engine` holds all that was committed before; called after `told`.

        Raises:
            UnknownPartitionError: nobody knows, and the likeliest may not be taken instead.
        """
        possible, differing = self._possible, self._differing
        start_ts, commit_ts = self.transaction.start_ts, self.transaction.commit_ts
        # What is written twice is there or not in the second place for reasons of its own.
        was_there = {} if self._is_double else self._were_there(possible[0][0])
        view = engine.read([GAP_KIND])
        for handle in filter(was_there.__contains__, differing):
            places = {i for _, p in possible for i in p[handle]}
            if any(gap.contains(handle) for i in places for gap in gaps_of(view, i)):
                continue
            fitting = [
                definition
                for definition, places in possible
                if self._is_there(engine, min(places[handle]), handle) == was_there[handle]
            ]
            if len(fitting) == 1:
                return fitting[0]
        if self.is_likely and not any(double_writes(definition) for definition, _ in possible[1:]):
            return possible[0][0]
        if not may_guess:
            raise UnknownPartitionError(self.table.full_name, start_ts, commit_ts)
        text = "guessed in which partition of %s the transaction start_ts=%d commit_ts=%d wrote"
        _log.warning(text, self.table.full_name, start_ts, commit_ts)
        return possible[0][0]

    @cached_property
    def _possible(self) -> Sequence[tuple[TableInfo, Places]]:
        """The candidates under which the rows have a place, and those places."""
        possible = [(c, p) for c in self.candidates if (p := self._places(c))]
        is_double = any(double_writes(definition) for definition, _ in possible)
        if is_double and repeats_itself(self.table, self.mutations):
            possible = [(c, p) for c, p in possible if double_writes(c)]
        return possible

    @property
    def _is_double(self) -> bool:
        return any(double_writes(definition) for definition, _ in self._possible)

    @cached_property
    def _differing(self) -> Sequence[int | bytes]:
        return _differing([places for _, places in self._possible])

    def _asked(
        self,
        possible: Sequence[tuple[TableInfo, Places]],
        differing: Sequence[int | bytes],
        has_written: HasWritten,
    ) -> TableInfo | None:
        """The definition that TiKV tells: it has a write, or all others have one that is not there.

        A row that comes and goes in one transaction leaves nothing, so it excludes none.
        """
        fresh = set(map(handle_of_insert, self.mutations.inserted)) if self.table.has_rowid else ()
        excluded: list[TableInfo] = []
        for handle in differing:
            for definition, places in possible:
                others = {i for d, p in possible if d is not definition for i in p[handle]}
                for physical_id in sorted(places[handle] - others):
                    key = encode_record_key(physical_id, handle)
                    is_written = has_written(key, self.transaction.start_ts)
                    if is_written:
                        return definition
                    if is_written is False and self.table.has_rowid and handle not in fresh:
                        excluded.append(definition)
        left = [d for d, _ in possible if all(d is not other for other in excluded)]
        return left[0] if len(left) == 1 else None

    def _places(self, candidate: TableInfo) -> Places:
        """Where each row would be; nothing if one has no place."""
        places: dict[int | bytes, set[PhysicalTableID]] = defaultdict(set)
        try:
            for handle, physical_id in self._rows(candidate, self.mutations):
                places[handle].add(physical_id)
        except (NoPartitionError, UnknownPartitionError, UnsupportedError):
            return {}
        return places

    def _rows(
        self, candidate: TableInfo, mutations: TableMutations
    ) -> Iterator[tuple[int | bytes, PhysicalTableID]]:
        changes = TableChanges(self.table, candidate)
        changes.add(mutations, self.transaction.start_ts, self.transaction.commit_ts)
        for version in changes.to_versions():
            for handle in version.batch.column(HANDLE).to_pylist():
                yield handle, version.physical_id

    def _were_there(self, definition: TableInfo) -> Mapping[int | bytes, bool]:
        """Which rows were there before the transaction, where its kinds of changes tell."""
        whole, is_new = self.mutations, self.mutations.sequence == INSERT
        came = replace(whole, updated=[], deleted=[], sequence=whole.sequence[is_new])
        stayed = replace(whole, inserted=[], sequence=whole.sequence[~is_new])
        new, old = (
            {handle for handle, _ in self._rows(definition, part)} if len(part.sequence) else set()
            for part in (came, stayed)
        )
        return dict.fromkeys(new - old, False) | dict.fromkeys(old - new, True)

    def _is_there(
        self, engine: WriterEngine, physical_id: PhysicalTableID, handle: int | bytes
    ) -> bool:
        view, before = engine.read([]), TimeStamp(self.transaction.commit_ts - 1)
        return any(
            pc.any(pc.equal(batch.column(HANDLE), pa.scalar(handle))).as_py()
            for region in engine.plan(view, physical_id)
            for batch in engine.scan(region, [], before, with_handle=True)
        )


def _differing(possible: Sequence[Places]) -> Sequence[int | bytes]:
    """Rows that are not in the same partition in all, some of them."""
    first = possible[0]
    return [h for h in first if any(p[h] != first[h] for p in possible)][:_MOST_ROWS]
