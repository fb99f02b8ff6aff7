"""Determine the partitions that a transaction wrote to if its binlog is ambiguous.

A binlog contains the table id, not the partition's, and the schema version at BEGIN. With metadata
locks, a transaction uses the table's definition at its first statement on the table. An autocommit
statement records the version at its end, which TiDB may have loaded while it ran. So a transaction
that commits after TRUNCATE, DROP or EXCHANGE PARTITION, and began before every TiDB had loaded the
change, may have used the old definition or the new one:

    BEGIN (59) ── UPDATE other ─────────────────────── INSERT part ── COMMIT   used 60, records 59
    BEGIN (59) ── UPDATE part ─────────────────────────────────────── COMMIT   used 59, records 59
                                      INSERT part ───────────────────          used 59, records 60
                                 TRUNCATE: version 60 ── loaded here

The definition is determined by, in this order:

    TiKV              if the schema comes from a running cluster: the row's key has a write of the
                      transaction under one of the definitions
    the stored rows   an updated or deleted row existed before, an inserted one did not

A transaction uses one definition of a table, so one row placed differently decides for all. If only
one definition has double writes (REORGANIZE PARTITION), the changes themselves may decide, too.
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
from pyspark_theflash.storage.engine.api import ScanSpec, WriterEngine
from pyspark_theflash.storage.mvcc.version import HANDLE
from pyspark_theflash.storage.store.gap import GAP_KIND, gaps_of
from pyspark_theflash.tidb.codec.key import RawKey, encode_record_key
from pyspark_theflash.tidb.schema.lineage import double_writes
from pyspark_theflash.tidb.schema.model import TableInfo

HasWritten: TypeAlias = Callable[[RawKey, TimeStamp], bool | None]
"""(record key, start_ts) -> whether the transaction wrote the key; None if that is unknown."""
Places: TypeAlias = Mapping[int | bytes, Set[PhysicalTableID]]
"""Physical tables of each row by handle; two of them with double writes."""

# Not only one: rows inserted and deleted in the same transaction decide nothing.
_MOST_ROWS: Final = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AmbiguousPlacement:
    """Changes of a transaction to a table, and the definitions that it may have used.

    `table` is the definition to decode the rows with. The first of `candidates` is the most likely.
    With `is_likely` it is used if nothing decides, unless another one has double writes.
    """

    table: TableInfo
    candidates: Sequence[TableInfo]
    mutations: TableMutations
    transaction: Transaction
    is_likely: bool = False

    def determine(self, has_written: HasWritten) -> TableInfo | None:
        """Return the definition used, by the changes themselves or TiKV; None if unknown.

        Raises:
            CodecError, SchemaOutdatedError: The rows cannot be decoded; see `to_versions`.
            ServiceUnavailableError: TiKV does not answer.
        """
        if len(self.candidates) == 1 or not self._possible:
            return self.candidates[0]  # If its rows have no partition, decoding them raises.
        if len(self._possible) == 1 or not self._differing:
            return self._possible[0][0]
        return self._determine_by_tikv(has_written)

    def determine_by_rows(self, engine: WriterEngine, *, may_guess: bool) -> TableInfo:
        """Return the definition used, by the rows stored before, or the most likely one.

        All earlier commits must be in `engine`. Called after `determine` has returned None.

        Raises:
            UnknownPartitionError: The rows do not decide, and guessing is not allowed.
        """
        possible, differing = self._possible, self._differing
        start_ts, commit_ts = self.transaction.start_ts, self.transaction.commit_ts
        # With double writes, whether the row exists in the second partition decides nothing.
        existed = {} if self._is_double else self._existed(possible[0][0])
        view = engine.read([GAP_KIND])
        for handle in filter(existed.__contains__, differing):
            places = {i for _, p in possible for i in p[handle]}
            if any(gap.contains(handle) for i in places for gap in gaps_of(view, i)):
                continue
            matching = [
                definition
                for definition, places in possible
                if self._is_stored(engine, min(places[handle]), handle) == existed[handle]
            ]
            if len(matching) == 1:
                return matching[0]
        if self.is_likely and not any(double_writes(definition) for definition, _ in possible[1:]):
            return possible[0][0]
        if not may_guess:
            raise UnknownPartitionError(self.table.full_name, start_ts, commit_ts)
        text = "guessed the partitions of %s that transaction start_ts=%d commit_ts=%d wrote to"
        _log.warning(text, self.table.full_name, start_ts, commit_ts)
        return possible[0][0]

    @cached_property
    def _possible(self) -> Sequence[tuple[TableInfo, Places]]:
        """The candidates under which every row has a partition, and these partitions."""
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

    def _determine_by_tikv(self, has_written: HasWritten) -> TableInfo | None:
        """Return the definition with a write in TiKV, or the only one without a missing write.

        A row inserted and deleted in the same transaction leaves no write, so it excludes nothing.
        """
        new = set(map(handle_of_insert, self.mutations.inserted)) if self.table.has_rowid else ()
        possible, excluded = self._possible, list[TableInfo]()
        for handle in self._differing:
            for definition, places in possible:
                others = {i for d, p in possible if d is not definition for i in p[handle]}
                for physical_id in sorted(places[handle] - others):
                    key = encode_record_key(physical_id, handle)
                    is_written = has_written(key, self.transaction.start_ts)
                    if is_written:
                        return definition
                    if is_written is False and self.table.has_rowid and handle not in new:
                        excluded.append(definition)
        remaining = [d for d, _ in possible if all(d is not other for other in excluded)]
        return remaining[0] if len(remaining) == 1 else None

    def _places(self, candidate: TableInfo) -> Places:
        """Return the partitions of each row under a definition; {} if a row has none."""
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

    def _existed(self, definition: TableInfo) -> Mapping[int | bytes, bool]:
        """Return whether rows existed before the transaction, if the kinds of changes show it."""
        whole, is_insert = self.mutations, self.mutations.sequence == INSERT
        inserts = replace(whole, updated=[], deleted=[], sequence=whole.sequence[is_insert])
        others = replace(whole, inserted=[], sequence=whole.sequence[~is_insert])
        new, old = (
            {handle for handle, _ in self._rows(definition, part)} if len(part.sequence) else set()
            for part in (inserts, others)
        )
        return dict.fromkeys(new - old, False) | dict.fromkeys(old - new, True)

    def _is_stored(
        self, engine: WriterEngine, physical_id: PhysicalTableID, handle: int | bytes
    ) -> bool:
        view, before = engine.read([]), TimeStamp(self.transaction.commit_ts - 1)
        return any(
            pc.any(pc.equal(batch.column(HANDLE), pa.scalar(handle))).as_py()
            for region in engine.plan(view, physical_id)
            for batch in engine.scan(region, ScanSpec([], before, with_handle=True))
        )


def _differing(possible: Sequence[Places]) -> Sequence[int | bytes]:
    """Return up to `_MOST_ROWS` rows whose partitions differ between the definitions."""
    first = possible[0]
    return [h for h in first if any(p[h] != first[h] for p in possible)][:_MOST_ROWS]
