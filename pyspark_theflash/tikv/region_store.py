"""The regions of a learner in memory: applies commands, and provides the state to publish.

    apply(commands)  ──►  regions: range, epoch, applied index      ──►  freeze()  ──►  the engine
                          cache: versions, locks, long rows               consistent across regions

Commands of one batch are applied together: a run of puts and deletes of any number of regions is
decoded at once; admin commands separate runs. A command at or below a region's applied index has
been applied before, and is skipped.

`freeze` returns all changes since the previous one: versions, the states of regions, changes of
pending entries. It is consistent across regions, so a publication contains a prefix of the applied
commands. `published` marks it as durable; only then is it reported to the sender of the commands.

    records   kv-region   id        a region's state (`RegionRecord`)
              kv-pending  sequence  see `pending_records`

Small batches may be buffered and decoded with later ones (`waiting`), until the state is read.
"""

import bisect
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from pyspark_theflash.base.clock import Deadline
from pyspark_theflash.base.errors import (
    CodecError,
    RaftCommandError,
    RegionBehindError,
    RegionEpochNotMatchError,
    RegionGapError,
    RegionNotReadableError,
    RegionStoppedError,
)
from pyspark_theflash.base.types import RegionID
from pyspark_theflash.cluster.key_range import EncodedKeyRange
from pyspark_theflash.replication.apply.versions import Versions
from pyspark_theflash.storage.store.manifest import ManifestChange, Record, View
from pyspark_theflash.storage.store.stopped import (
    STOPPED_KIND,
    StoppedRegion,
    stopped_regions,
)
from pyspark_theflash.tikv.cache import Cache
from pyspark_theflash.tikv.command import (
    Admin,
    Applied,
    ChangePeers,
    CommitMerge,
    CompactLog,
    DeleteRange,
    PrepareMerge,
    RaftCommand,
    RollbackMerge,
    SplitRegion,
)
from pyspark_theflash.tikv.memory_versions import NewestRows
from pyspark_theflash.tikv.pending_records import PENDING_RECORD, PendingRecords
from pyspark_theflash.tikv.region import (
    ApplyState,
    RaftRegion,
    RegionState,
    child_of,
    commit_merge,
    gap,
    prepare_merge,
    rollback_merge,
)
from pyspark_theflash.tikv.request import FAMILIES, decode_pieces, sort_requests
from pyspark_theflash.tikv.waiting import Waiting
from pyspark_theflash.tikv.wire import decode_region_state, encode_region_state

REGION_RECORD: Final = "kv-region"

Part: TypeAlias = list[bytes] | DeleteRange | Versions
"""Puts and deletes; a range of pending entries to delete; versions to add."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The changes for one publication: everything applied since the previous one."""

    versions: Sequence[Versions]
    change: ManifestChange
    states: Sequence[RegionState]
    removed: Sequence[RegionID]
    stopped: Mapping[RegionID, StoppedRegion]
    size_bytes: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to publish."""
        return not (self.versions or self.change.puts or self.change.deletes)


class RegionStore:
    """The regions of a learner. Reads are thread-safe; only one thread may change the store."""

    def __init__(self) -> None:
        self.mutex: Final = threading.RLock()
        self._cache: Final = Cache()
        self._waiting: Final = Waiting()
        self._failure: Exception | None = None
        self.newest: Final = NewestRows()
        self._progress = threading.Condition(self.mutex)
        self._regions: dict[RegionID, RegionState] = {}
        self._stopped: dict[RegionID, StoppedRegion] = {}
        self._published_stops: Mapping[RegionID, StoppedRegion] = {}
        self._order: list[tuple[bytes, RegionID]] | None = []
        self._durable: dict[RegionID, ApplyState] = {}
        self._dirty: set[RegionID] = set()
        self._removed: set[RegionID] = set()
        self._frozen: Frozen | None = None
        self._advanced: set[RegionID] = set()
        self.removals = 0
        """The number of regions removed with their rows since this object was created."""
        self._pending: Final = PendingRecords(self._cache)

    # -- state

    @property
    def size_bytes(self) -> int:
        """The approximate size of data in memory that is not in the engine."""
        with self.mutex:
            frozen = self._frozen.size_bytes if self._frozen else 0
            return self._cache.size_bytes + self._waiting.size_bytes + frozen

    @property
    def version_bytes(self) -> int:
        """The approximate size of the versions for the next publication."""
        return self._cache.version_bytes + self._waiting.size_bytes

    @property
    def cache(self) -> Cache:
        """The applied data that is not frozen yet. Raises as `apply` does."""
        with self.mutex:
            self._apply_buffered()
            return self._cache

    @property
    def is_changed(self) -> bool:
        """Whether anything was applied since the last `freeze`."""
        published = self._frozen.stopped if self._frozen else self._published_stops
        is_stopped = self._stopped != published
        return bool(
            self._waiting or self._dirty or self._removed or self._cache.versions or is_stopped
        )

    @property
    def is_frozen(self) -> bool:
        """Whether a frozen state has not been published yet."""
        return self._frozen is not None

    def regions(self) -> Sequence[RegionState]:
        """Return all regions in key order."""
        with self.mutex:
            self._apply_buffered()
            if self._order is None:
                self._order = sorted((s.region.start, s.id) for s in self._regions.values())
            return [self._regions[region_id] for _, region_id in self._order]

    def region(self, region_id: RegionID) -> RegionState | None:
        """Return a region by id; None if there is none."""
        with self.mutex:
            self._apply_buffered()
            return self._regions.get(region_id)

    def within(self, keys: EncodedKeyRange) -> Sequence[RegionState]:
        """Return the regions that intersect a range, in key order."""
        states = self.regions()
        first = bisect.bisect_right(states, keys.start, key=lambda s: s.region.start) - 1
        last = len(states)
        if keys.end:
            last = bisect.bisect_left(states, keys.end, key=lambda s: s.region.start)
        return [s for s in states[max(first, 0) : last] if s.region.keys.within(keys)]

    def uncovered(self) -> Sequence[EncodedKeyRange]:
        """Return the ranges that no region covers, in key order."""
        gaps, start = [], b""
        regions = [state.region for state in self.regions()]
        while (missing := gap(regions, start, b"")) is not None:
            gaps.append(EncodedKeyRange(*missing))
            if not missing[1]:
                break
            start = missing[1]
        return gaps

    def check_covered(
        self, keys: EncodedKeyRange, versions: "dict[RegionID, int] | None" = None
    ) -> Sequence[RegionState]:
        """Return the regions that intersect a range, after checking that they cover it.

        Args:
            versions: The expected epoch versions of the regions; None for no check.

        Raises:
            RegionGapError: No region covers some of the keys.
            RegionNotReadableError: A region is merging.
            RegionEpochNotMatchError: A region has another epoch version.
        """
        with self.mutex:
            states = self.within(keys)
            if (missing := gap((s.region for s in states), keys.start, keys.end)) is not None:
                raise RegionGapError(missing[0].hex(), missing[1].hex())
            for state in states:
                if not state.is_readable:
                    raise RegionNotReadableError(state.id, f"is {state.state.name.lower()}")
                expected = versions and versions.get(state.id)
                version = state.region.epoch.version
                if versions is not None and expected != version:
                    raise RegionEpochNotMatchError(state.id, expected or 0, version)
            return states

    def wait_applied(self, region_id: RegionID, index: int, deadline: Deadline) -> None:
        """Wait until a region has applied its log up to an index.

        Raises:
            RegionNotReadableError: There is no such region.
            RegionStoppedError: It cannot be followed to the index.
            RegionBehindError: The index is not applied by the deadline.
        """
        with self._progress:
            while True:
                state = self.region(region_id)
                if state is None:
                    raise RegionNotReadableError(region_id, "is not in this store")
                applied_index = state.applied.applied_index
                if applied_index >= index:
                    return
                if (stopped := self._stopped.get(region_id)) is not None:
                    raise RegionStoppedError(region_id, applied_index, stopped.reason)
                left_ms = deadline.left_ms()
                if not left_ms:
                    raise RegionBehindError(region_id, applied_index, index)
                self._progress.wait(left_ms / 1000)

    @property
    def stopped(self) -> Mapping[RegionID, StoppedRegion]:
        """The regions that cannot be followed any further."""
        return self._stopped

    def stopped_source(self, command: RaftCommand) -> StoppedRegion | None:
        """Return the region that a command merges into its own, if that stays at an index."""
        admin = command.admin
        return self._stopped.get(admin.source.id) if isinstance(admin, CommitMerge) else None

    def stop_region(self, region_id: RegionID, reason: str) -> None:
        """Note that a region cannot be followed any further, until a snapshot replaces it."""
        with self._progress:
            index = self._regions[region_id].applied.applied_index
            self._stopped[region_id] = StoppedRegion(region_id, index, reason)
            self._progress.notify_all()

    def durable_states(self, region_ids: Iterable[RegionID]) -> list[Applied]:
        """Return the durable apply states of regions; None for a missing one."""
        with self.mutex:
            return [
                Applied(i, self._durable.get(i, _NOT_APPLIED) if i in self._regions else None)
                for i in dict.fromkeys(region_ids)
            ]

    def take_progress(self) -> list[Applied]:
        """Return the durable apply states that have advanced since the last call."""
        with self.mutex:
            advanced, self._advanced = self._advanced, set()
            return self.durable_states(sorted(advanced))

    # -- applying

    def apply(self, commands: Sequence[RaftCommand]) -> int:
        """Apply commands in order, up to the first one with a DeleteRange or IngestSST request.

        Or up to the merge of a region that cannot be followed any further.

        A small batch may be buffered until the state is read; then an error in it is raised by the
        read. After an error, the store must be recovered from the durable state.

        Returns:
            The number of commands that are applied, buffered, or were applied before.

        Raises:
            CodecError: A request is malformed.
            CorruptionError: The row of a commit is missing.
            RaftCommandError: A command does not fit the state of the regions.
        """
        with self._progress:
            try:
                if self._failure is None and self._waiting.add(commands):
                    return len(commands)
                self._apply_buffered()
                return self._apply(commands)
            finally:
                self._progress.notify_all()

    def apply_parts(self, command: RaftCommand, parts: Sequence[Part]) -> None:
        """Apply a command that `apply` stopped at, converted to parts by the caller."""
        with self._progress:
            self._apply_buffered()
            for part in parts:
                if isinstance(part, list):
                    for requests in decode_pieces(part):
                        self._cache.apply(requests)
                elif isinstance(part, DeleteRange):
                    self._cache.cut_family(FAMILIES[part.cf], part.start, part.end)
                else:
                    self._cache.add([part])
            self._put(_applied_to(self._regions[command.region_id], command))
            self._progress.notify_all()

    def is_new(self, command: RaftCommand) -> bool:
        """Return whether a command is of an existing region, and has not been applied."""
        state = self.region(command.region_id)
        return state is not None and command.index > state.applied.applied_index

    def _apply_buffered(self) -> None:
        """Apply buffered commands. An error is raised by every later call, too."""
        if self._waiting:
            try:
                self._apply(self._waiting.take())
            except Exception as error:  # noqa: BLE001 (raised below)
                self._failure = error
        if self._failure is not None:
            raise self._failure

    def _apply(self, commands: Sequence[RaftCommand]) -> int:
        run: list[tuple[int, RaftCommand]] = []
        reached: dict[RegionID, int] = {}
        for number, command in enumerate(commands):
            state = self._regions.get(command.region_id)
            if state is None:
                continue
            index = reached.get(state.id, state.applied.applied_index)
            if command.admin is None and not command.destroys:
                if command.index > index:
                    run.append((number, command))
                    reached[state.id] = command.index
                continue
            if (stopped_at := self._end_run(run)) is not None:
                return stopped_at
            run, reached = [], {}
            if command.index > index and self.stopped_source(command) is not None:
                return number
            if command.destroys:
                self.remove(state.id)
            elif command.index > index:
                self._apply_admin(self._regions[state.id], command)
        stopped_at = self._end_run(run)
        return len(commands) if stopped_at is None else stopped_at

    def _end_run(self, run: list[tuple[int, RaftCommand]]) -> int | None:
        """Apply a run of commands; return the position of one that needs `apply_parts`."""
        messages = [message for _, command in run for message in command.requests]
        try:
            pieces = decode_pieces(messages)
        except CodecError:
            return self._apply_singly(run)
        for requests in pieces:
            self._cache.apply(requests)
        newest = {command.region_id: command for _, command in run}
        for region_id, command in newest.items():
            self._put(_applied_to(self._regions[region_id], command))
        return None

    def _apply_singly(self, run: list[tuple[int, RaftCommand]]) -> int | None:
        """Apply a run command by command: it has other requests, or non-canonical messages."""
        for number, command in run:
            parts = sort_requests(command.requests)
            if not all(isinstance(part, list) for part in parts):
                return number
            for part in parts:
                for requests in decode_pieces(part) if isinstance(part, list) else ():
                    self._cache.apply(requests)
            self._put(_applied_to(self._regions[command.region_id], command))
        return None

    def _apply_admin(self, state: RegionState, command: RaftCommand) -> None:
        state = _applied_to(state, command)
        self._put(state)
        admin = command.admin
        if isinstance(admin, SplitRegion):
            self._split(state, admin.regions)
        elif isinstance(admin, ChangePeers):
            self._put(replace(state, region=admin.region))
            if state.peer and admin.region.peer_on(state.peer.store_id) is None:
                self.remove(state.id)
        elif admin is not None:
            self._put(self._changed(state, admin))

    def _changed(self, state: RegionState, admin: Admin) -> RegionState:
        index = state.applied.applied_index
        if isinstance(admin, CompactLog):
            applied = replace(state.applied, truncated_index=admin.index, truncated_term=admin.term)
            return replace(state, applied=applied)
        if isinstance(admin, PrepareMerge):
            return prepare_merge(state, admin.min_index, admin.target, index)
        if isinstance(admin, RollbackMerge):
            return rollback_merge(state)
        if isinstance(admin, CommitMerge):
            return self._merge(state, admin)
        return state

    def _split(self, parent: RegionState, regions: Sequence[RaftRegion]) -> None:
        if all(region.id != parent.id for region in regions):
            reason = "the region is not among the results of its split"
            raise RaftCommandError(parent.id, parent.applied.applied_index, reason)
        for region in regions:
            existing = self._regions.get(region.id)
            if region.id == parent.id:
                self._put(replace(parent, region=region))
            elif existing is None or existing.region.epoch.version < region.epoch.version:
                self._put(child_of(parent, region))

    def _merge(self, target: RegionState, merge: CommitMerge) -> RegionState:
        index = target.applied.applied_index
        source = self._regions.get(merge.source.id)
        if source is None:
            reason = f"the source of its merge, region {merge.source.id}, is not in this store"
            raise RaftCommandError(target.id, index, reason)
        if source.applied.applied_index < merge.commit:
            reason = (
                f"the source of its merge, region {source.id}, must be applied up to index "
                f"{merge.commit}, and is at {source.applied.applied_index}"
            )
            raise RaftCommandError(target.id, index, reason)
        region = commit_merge(target.region, merge.source)
        if region is None:
            reason = f"the source of its merge, region {source.id}, is not adjacent"
            raise RaftCommandError(target.id, index, reason)
        self._forget(source.id)
        return replace(target, region=region)

    def remove(self, region_id: RegionID) -> None:
        """Remove a region, and the pending entries in its range."""
        with self._progress:
            self._apply_buffered()
            region = self._regions[region_id].region
            self._forget(region_id)
            self._cache.cut(region.start, region.end)
            self.removals += 1
            self._progress.notify_all()

    def install(self, state: RegionState, covered: Iterable[RegionID]) -> None:
        """Replace the covered regions by a region."""
        with self._progress:
            self._apply_buffered()
            for region_id in covered:
                if region_id != state.id:
                    self._forget(region_id)
            self._put(state)
            self._progress.notify_all()

    def _put(self, state: RegionState) -> None:
        before = self._regions.get(state.id)
        self._regions[state.id] = state
        self._stopped.pop(state.id, None)
        self._dirty.add(state.id)
        self._removed.discard(state.id)
        # The order changes only with a region object; most commands keep it, so avoid sorting.
        if before is None or before.region is not state.region:
            self._order = None

    def _forget(self, region_id: RegionID) -> None:
        del self._regions[region_id]
        self._stopped.pop(region_id, None)
        self._dirty.discard(region_id)
        self._removed.add(region_id)
        self._order = None

    # -- publishing

    def freeze(self) -> Frozen:
        """Return all changes since the last `freeze`, which must have been published.

        Raises as `apply` does.
        """
        with self.mutex:
            self._apply_buffered()
            puts, deletes = self._pending.freeze()
            states = [self._regions[i] for i in sorted(self._dirty)]
            puts += [Record(REGION_RECORD, _key(s.id), encode_region_state(s)) for s in states]
            removed = sorted(i for i in self._removed if i in self._durable)
            deletes += [(REGION_RECORD, _key(i)) for i in removed]
            stopped, before = dict(self._stopped), self._published_stops
            puts += [s.to_record() for i, s in stopped.items() if before.get(i) != s]
            deletes += [(STOPPED_KIND, s.key) for i, s in before.items() if i not in stopped]
            size_bytes = self._cache.version_bytes
            versions = self._cache.take_versions()
            self._dirty, self._removed = set(), set()
            self._frozen = Frozen(
                versions, ManifestChange(puts, deletes), states, removed, stopped, size_bytes
            )
            return self._frozen

    def published(self, frozen: Frozen) -> None:
        """Mark a frozen state as durable and visible in the engine."""
        with self._progress:
            self._frozen, self._published_stops = None, frozen.stopped
            self.newest.forget()
            self._durable.update((state.id, state.applied) for state in frozen.states)
            for region_id in frozen.removed:
                self._durable.pop(region_id, None)
            self._advanced.update(state.id for state in frozen.states)
            self._progress.notify_all()

    def unflushed(self) -> list[Versions]:
        """Return the versions that may not be in the engine yet."""
        with self.mutex:
            self._apply_buffered()
            return [*(self._frozen.versions if self._frozen else ()), *self._cache.versions]

    @classmethod
    def recover(cls, view: View) -> "RegionStore":
        """Return the store whose state is in the records of `view`.

        Raises:
            CodecError: A record is malformed.
        """
        store = cls()
        for body in view.of_kind(REGION_RECORD).values():
            state = decode_region_state(body)
            store._regions[state.id] = state
            store._durable[state.id] = state.applied
        store._stopped = {RegionID(each.region_id): each for each in stopped_regions(view)}
        store._published_stops = dict(store._stopped)
        store._order = None
        store._pending.restore(view.of_kind(PENDING_RECORD))
        return store


_NOT_APPLIED: Final = ApplyState(0, 0)


def _applied_to(state: RegionState, command: RaftCommand) -> RegionState:
    before = state.applied
    applied = ApplyState(command.index, command.term, before.truncated_index, before.truncated_term)
    return RegionState(state.region, applied, state.peer, state.state, state.merge)


def _key(number: int) -> str:
    return f"{number:020d}"
